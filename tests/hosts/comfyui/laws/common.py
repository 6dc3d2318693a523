"""What several tests of this folder share."""

from dataclasses import fields, replace
from functools import partial

import torch
from conceptattention.conceptattention_core.hosts.comfyui.call import POSITIVE
from conceptattention.conceptattention_core.hosts.comfyui.families import FAMILIES, family_of
from conceptattention.conceptattention_core.hosts.comfyui.override import OVERRIDE
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ....comfyui.tiny import Tiny


def call_apart(tiny: Tiny, block: nn.Module, args: dict) -> tuple[dict, dict]:
    """Run one block and keep its output and what its joint attention was called with and gave."""
    seen = {}
    joint = args["txt"].shape[1] + args["img"].shape[1]

    def override(attention, q, k, v, heads, *rest, **kwargs):
        out = attention(q, k, v, heads, *rest, **kwargs)
        if not kwargs.get("skip_reshape"):
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        if q.shape[2] == joint:
            merged = heads_merged(out, kwargs)
            # several heads of queries may share one of values
            v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
            seen.update(q=q.clone(), v=v.clone(), out=merged.clone())
        return out

    _, keys = tiny.placeless(block)
    hook = keys.register_forward_hook(lambda _m, _a, out: seen.update(keys=tiny.keys(out).clone()))
    try:
        return tiny.run(block, args, {OVERRIDE: override}), seen
    finally:
        hook.remove()


def heads_merged(out: Tensor, how: dict) -> Tensor:
    """What an attention that was called so gave, as `b n (head d)`."""
    return out.transpose(1, 2).flatten(2) if how.get("skip_output_reshape") else out


def of_rows(value, rows: slice, b: int):
    """The rows of a batch of `b` of what a block was called with."""
    if isinstance(value, Tensor):
        return value[rows].clone() if len(value) == b else value.clone()
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(of_rows(part, rows, b) for part in value)
    parts = {field.name: of_rows(getattr(value, field.name), rows, b) for field in fields(value)}
    return replace(value, **parts)


class Witness:
    """Another pack's patches that note what each block was called with, positive rows only."""

    def __init__(self, tiny: Tiny, b: int):
        self.tiny, self.b = tiny, b
        self.args: dict[int, dict] = {}
        self.out: dict[int, Tensor] = {}
        self.queries: dict[int, Tensor] = {}
        self.network = tiny.model().model.diffusion_model

    def on(self, model):
        watched = model.clone()
        depth = len(family_of(self.network).blocks(self.network))
        for index in range(depth):
            self.tiny.around(watched, index, self._watch(index))
        return watched

    def _watch(self, index: int):
        def patch_of_block(args, original):
            options = args["transformer_options"]
            at = options["cond_or_uncond"].index(POSITIVE) * self.b
            rows = slice(at, at + self.b)
            self.args[index] = {
                name: of_rows(value, rows, len(args["img"]))
                for name, value in args.items()
                if isinstance(value, (Tensor, tuple, list))
            }
            text = args.get("num_tokens", args["txt"].shape[1])  # Mochi joins no padding
            joint = text + args["img"].shape[1]

            earlier = options.get(OVERRIDE)

            def override(attention, *rest, **kwargs):
                out = (attention if earlier is None else partial(earlier, attention))(
                    *rest, **kwargs
                )
                merged = heads_merged(out, kwargs)
                if merged.shape[1] == joint:
                    self.out[index] = merged[rows].clone()
                return out

            def before_positions(_module, _args, out):
                # where both streams have one norm, concepts come through it later
                self.queries.setdefault(index, self.tiny.queries(out)[rows].clone())

            options = {**options, OVERRIDE: override}
            queries, _ = self.tiny.placeless(self.tiny.block(self.network, index))
            hook = queries.register_forward_hook(before_positions)
            try:
                return original({**args, "transformer_options": options})
            finally:
                hook.remove()

        return patch_of_block


def scores_as_prompt(tiny: Tiny, witness: Witness, words: list[list[str]], space: str, grid):
    """For each block the scores `b c y x` of concepts that *are* the block's text."""
    clip = tiny.clip()
    rows = torch.cat([clip.row(word) for own in words for word in own])
    tokens = [c for c, own in enumerate(words) for _ in range(len(own) * tiny.readings)]
    text = 0 if tiny.text_last else witness.args[0]["txt"].shape[1]
    patches = grid.patches
    own = slice(patches, None) if tiny.text_last else slice(len(rows))
    picture = slice(patches) if tiny.text_last else slice(len(rows), None)
    stream = tiny.enter(witness.network, rows).expand(witness.b, -1, -1)
    found = []
    for index, args in sorted(witness.args.items()):
        stream = tiny.renew(witness.network, rows, stream, index)
        given = tiny.as_text(args, stream, text, patches)
        out, seen = call_apart(tiny, tiny.block(witness.network, index), given)
        stream = out["txt"]
        if space == "output":
            of_tokens = seen["out"][:, own]
            of_image = witness.out[index][:, text : text + patches]
        else:
            of_tokens = seen["keys" if space == "cross-attention" else "v"]
            if of_tokens.shape[2] > len(rows):  # keys of the text alone
                of_tokens = of_tokens[:, :, own]
            of_tokens = torch.cat(of_tokens.unbind(1), dim=-1)
            of_image = seen["v"][:, :, picture]
            if space == "cross-attention":
                of_image = witness.queries[index] / seen["q"].shape[1]
                start = text if of_image.shape[2] == witness.out[index].shape[1] else 0
                of_image = of_image[:, :, start : start + patches]
            of_image = torch.cat(of_image.unbind(1), dim=-1)
        products = of_tokens @ of_image.mT
        means = [
            products[:, [t for t, owner in enumerate(tokens) if owner == c]].mean(1)
            for c in range(len(words))
        ]
        frames = torch.stack(means, 1).unflatten(-1, (grid.time.frames, grid.y, grid.x))
        found.append(frames.transpose(1, 2).flatten(0, 1))
    return found


class Halves:
    """Stands in for a VAE: the means of a picture's cells, in all channels alike."""

    def __init__(self, tiny: Tiny):
        self.tiny = tiny

    def encode(self, pixels: Tensor) -> Tensor:
        b, h, w, _ = pixels.shape
        cells = adaptive_avg_pool2d(
            pixels.mean(-1)[:, None], (h // self.tiny.scale, w // self.tiny.scale)
        )
        empty = self.tiny.empty(b, *cells.shape[-2:])
        return empty + (cells if empty.ndim == 4 else cells[:, :, None])  # all frames alike


FLUX = next(family for family in FAMILIES if family.name == "Flux.1")
