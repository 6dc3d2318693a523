"""Any other model whose joint blocks ComfyUI can patch: the generic path, which is slower.

Of such a model no more is known than what its own code says: which blocks it goes through, and
that each is given a text and hands one on. So each block is run again, with the concepts as its
text: what it projects for them is taken where it attends, and what they attend to is put there
for it to go on with. All but the attention is computed for the image once more.

A concept is a text of its own: the rows of its own words alone, embedded by the model itself, at
the places where a text begins. Its pooled vector is zeros. What is not certain is refused, because
a wrong map looks like a right one.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.model_management
import torch
from einops import rearrange
from torch import Tensor, nn

from .... import ConceptAttentionError
from ....forward import StopForward
from ....recording import FrameLayout, Grid
from ....text_side import ConceptStream, Heads, TokenIndex
from ....tokens import ConceptTokens
from ..guard import is_compiling
from ..override import OVERRIDE, merge_heads, split_heads
from .base import BlockCall, CallAgain, Family, Layout, ModelCall
from .reading import TemplateReader, encode_one, tokenize

Args = dict[str, Any]
"""What a patched block is called with: `img`, `txt`, `vec`, ..., `transformer_options`."""

Block = Callable[[Args], Args]


# --- which models ---------------------------------------------------------------------------------


def stack_of(model: type) -> str | None:
    """What a model calls its blocks, if they can be patched and hand their text on.

    Models with cross-attention have the same place for patches, but from block to block only
    their picture goes on.
    """
    return next(filter(None, map(_stack_in, model.__mro__)), None)


@cache
def _stack_in(kind: type) -> str | None:
    try:
        code = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):  # built in, or made while running
        return None
    for loop in ast.walk(code):
        if not isinstance(loop, ast.For):
            continue
        inside = [node for line in loop.body for node in ast.walk(line)]
        names = {node.value for node in inside if isinstance(node, ast.Constant)}
        kept = {
            ast.unparse(node.slice)
            for node in inside
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
        }
        match loop.iter:
            case ast.Call(
                func=ast.Name(id="enumerate"),
                args=[ast.Attribute(value=ast.Name(id="self"), attr=listed)],
            ) if "double_block" in names and "'txt'" in kept:
                return listed
    return None


class GenericFamily(Family):
    """A model of no family, by the name of its class."""

    def __init__(self, model: nn.Module, stack: str):
        self.name = type(model).__name__  # pyright: ignore[reportAttributeAccessIssue]
        self.stack = stack  # pyright: ignore[reportAttributeAccessIssue]

    def grid(self, model: nn.Module, h: int, w: int, latents: int = 1) -> Grid:
        side: Any = getattr(model, "patch_size", 2)
        patch = side if isinstance(side, int) else side[-1]
        return Grid.of_latent(h, w, patch, time=FrameLayout(latents))

    def text_width(self, model: nn.Module) -> int | None:
        return None

    def embed(self, clip: Any, words: list[str]) -> list[ConceptTokens]:
        nothing, something = tokenize(clip, ["", words[0]])
        rows = encode_one(clip, nothing)
        others = {key: encode_one(clip, {**nothing, key: something[key]}) for key in nothing}
        readers = tuple(key for key, other in others.items() if not torch.equal(rows, other))
        if len(readers) != 1:
            raise self.refuse(f"its text is read by {' and '.join(readers) or 'none'} of its CLIP")
        return TemplateReader(among=readers, empty=("",)).read(clip, words, self.name)

    def start_stream(
        self, model: nn.Module, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> "GenericStream":
        if block.original is None or call.again is None:
            raise self.refuse("its blocks are not called through their place for patches")
        if is_compiling():  # a model inside of a model: the compiler ends the process over less
            raise self.refuse(
                "ComfyUI compiles it, and it has to be called inside of its own call; start "
                "ComfyUI with --disable-comfy-compiler"
            )
        text = block.stream
        with self.on_unknown_ground():
            alone = [
                self._call_alone(call.again, own.expand(len(text), -1, -1), len(self.blocks(model)))
                for own in tokens.rows.to(text).split(tokens.counts)
            ]
            text_last = self._is_text_last(block.original, alone[0][0])
        concepts = torch.cat([calls[0]["txt"] for calls in alone], dim=1)

        def side(index: int, original: Block) -> GenericSide:
            given = self.join([calls[index] for calls in alone], tokens.counts, text_last)
            return GenericSide(self, original, given, text_last)

        return GenericStream(
            concepts=concepts,
            text_side=side,
            family=self,
            text_last=text_last,
            has_positions=alone[0][0].get("pe") is not None,
        )

    def modulation(self, block: BlockCall) -> Block | None:
        return block.original

    def layout(self, model: nn.Module, block: BlockCall, grid: Grid, stream: Any) -> Layout:
        assert block.image is not None
        image, text = block.image.shape[1], block.stream.shape[1]
        if image != grid.patches:
            raise self.refuse(f"{grid.patches} patches were expected, and it has {image}")
        start = 0 if stream.text_last else text
        return Layout(text + image, slice(start, start + grid.patches))

    def _is_text_last(self, original: Block, args: Args) -> bool:
        """Which rows of the attention are the text's: those that another text changes."""
        text = args["txt"]
        slope = torch.linspace(0, 1, text.shape[-1], device=text.device, dtype=text.dtype)
        other = text + slope * (1 + text.abs().amax())
        length = text.shape[1] + args["img"].shape[1]
        values, changed = (
            project(original, {**args, "txt": own}, length)[2] for own in (text, other)
        )
        differ = rearrange(values != changed, "b head n d -> n (b head d)").any(1)
        count = text.shape[1]
        for text_last, own in ((False, differ[:count]), (True, differ[-count:])):
            if own.all() and differ.sum() == count:
                return text_last
        raise self.refuse("which of the tokens that attend are its text's is not certain")

    def _call_alone(self, again: CallAgain, rows: Tensor, depth: int) -> list[Args]:
        """What each block is called with when a concept's rows `b t n` are all of the text."""
        calls: list[Args] = []

        def pass_by(args: Args, _extra: Any) -> Args:
            options = dict(args["transformer_options"])
            del options["patches_replace"]  # which would lead back to these calls
            calls.append({**args, "transformer_options": options})
            if len(calls) == depth:
                raise StopForward
            return {"img": args["img"], "txt": args["txt"]}

        again(rows, {("double_block", index): pass_by for index in range(depth)})
        if len(calls) < depth or calls[0]["txt"].shape[1] != rows.shape[1]:
            raise self.refuse("it makes more of a text, or less, than a row for each token")
        return calls

    def join(self, calls: list[Args], lengths: list[int], text_last: bool) -> Args:
        """What a block is called with when all concepts are its text, from what each was alone."""
        positions = [own["pe"] for own in calls if isinstance(own.get("pe"), Tensor)]
        if not positions:
            return calls[0]
        image = calls[0]["img"].shape[1]
        axes = [axis for axis, n in enumerate(positions[0].shape) if n == lengths[0] + image]
        if not axes and image in positions[0].shape:
            return calls[0]  # the image's alone
        if len(axes) != 1:
            raise self.refuse("which of its positions are the text's is not certain")
        (axis,) = axes
        parts = [
            own.narrow(axis, image if text_last else 0, length)
            for own, length in zip(positions, lengths, strict=True)
        ]
        patches = positions[0].narrow(axis, 0 if text_last else lengths[0], image)
        joined = [patches, *parts] if text_last else [*parts, patches]
        return {**calls[0], "pe": torch.cat(joined, dim=axis)}

    @contextmanager
    def on_unknown_ground(self) -> Iterator[None]:
        """Nobody knows what else a block may count on; what it says then is the reason."""
        try:
            yield
        except comfy.model_management.OOM_EXCEPTION:
            raise  # ComfyUI tries again with less at once
        except (RuntimeError, TypeError, KeyError) as error:
            raise self.refuse(f"its blocks do not run with another text: {error}") from error

    def refuse(self, reason: str) -> ConceptAttentionError:
        return ConceptAttentionError(
            f"{self.name} is no model that is known here, and concepts cannot be recorded in it as "
            f"in any model with joint blocks: {reason}."
        )


# --- running a block again ------------------------------------------------------------------------


def project(block: Block, args: Args, length: int) -> Heads:
    """Queries, keys and values `b head n d` of the joint attention, of `length` tokens."""
    found: list[Tensor] = []

    def take(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found.extend((q, k, v))
        raise StopForward

    try:
        run(block, args, length, take)
    except StopForward:
        q, k, v = found
        return q, k, v
    raise RuntimeError("there is no attention of text and picture")


def run(block: Block, args: Args, length: int, attend: Callable[..., Tensor]) -> Args:
    """A block with its joint attention replaced by `attend`, from and to `b head n d`."""
    options = args["transformer_options"]

    def override(attention, q, k, v, heads, *rest, **kwargs):
        parted = q, k, v
        if not kwargs.get("skip_reshape"):
            parted = [split_heads(x, heads) for x in parted]
        if parted[0].shape[2] != length:
            return attention(q, k, v, heads, *rest, **kwargs)
        out = attend(*parted)
        return out if kwargs.get("skip_output_reshape") else merge_heads(out)

    unmasked = {name: None for name in args if name in ("attn_mask", "attention_mask")}
    copies = {name: args[name].clone() for name in ("img", "txt")}  # changed in place
    return block(
        {**args, **unmasked, **copies, "transformer_options": {**options, OVERRIDE: override}}
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class GenericStream(ConceptStream):
    family: GenericFamily
    text_last: bool
    """Whether the text comes after the image in the attention."""
    has_positions: bool
    """Whether blocks are called with positions."""

    def queries_before_rope(self, queries: Tensor, patches: TokenIndex) -> Tensor:
        if not self.has_positions:
            return queries
        raise self.family.refuse("its queries are not shown before they get their positions")


@dataclass(frozen=True, eq=False)
class GenericSide:
    """A block, run with the concepts as its text: up to its attention, then from there on."""

    family: GenericFamily
    original: Block
    given: Args
    text_last: bool

    def heads(self, concepts: Tensor) -> Heads:
        with self.family.on_unknown_ground():
            q, k, v = project(self.original, *self._with(concepts))
        text = self._text(concepts)
        return q[:, :, text], k[:, :, text], v[:, :, text]

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads  # as the block gives them, they have their positions

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        text = self._text(concepts)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = torch.zeros_like(q)
            out[:, :, text] = rearrange(attended, "b t (head d) -> b head t d", head=q.shape[1])
            return out

        with self.family.on_unknown_ground():
            after = run(self.original, *self._with(concepts), attend).get("txt")
        return concepts if after is None else after

    def _with(self, concepts: Tensor) -> tuple[Args, int]:
        """What the block is called with, and how many tokens meet in its attention."""
        return {**self.given, "txt": concepts}, concepts.shape[1] + self.given["img"].shape[1]

    def _text(self, concepts: Tensor) -> slice:
        count = concepts.shape[1]
        return slice(-count, None) if self.text_last else slice(count)
