"""What the law tests need of a family, and what its tiny model is made with."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import comfy.sample
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.patch import record
from conceptattention.conceptattention_core.recording import RecordSpec
from einops import rearrange
from torch import Tensor, nn

from .words import POOLED_WIDTH, TEXT_WIDTH

Conditioning = list[list[Any]]

CONCEPTS = "cat, red dog, sky"


def run_block(block: nn.Module, args: dict, options: dict) -> dict[str, Tensor | None]:
    """Call a block as most models do."""
    image, text = block(**args, transformer_options=options)
    return {"img": image, "txt": text}


Patch = Callable[[dict, Callable[[dict], dict]], dict]
"""What another pack makes of a block: patch(args, original) gives `img` and `txt`."""


def around_slot(model: Any, index: int, patch: Patch) -> None:
    """Put a patch where ComfyUI has a place for it."""
    model.set_model_patch_replace(
        lambda args, extra: patch(args, extra["original_block"]), "dit", "double_block", index
    )


def around_forward(
    blocks: str, names: dict[str, str], gives: tuple[str, ...] = ("img", "txt")
) -> Callable[[Any, int, Patch], None]:
    """Put a patch in place of a block's own forward, as packs do where there is no other way.

    `names` are those of its arguments, `gives` is what it returns.
    """

    def around(model: Any, index: int, patch: Patch) -> None:
        name = f"diffusion_model.{blocks}.{index}"
        block = model.get_model_object(name)
        own = type(block).forward  # what ComfyUI last put in its place may be there still
        earlier = model.object_patches.get(f"{name}.forward", own.__get__(block))
        known = inspect.signature(own)

        def forward(*args, **kwargs):
            call = known.bind(block, *args, **kwargs)

            def original(given: dict) -> dict[str, Tensor]:
                for ours, theirs in names.items():
                    call.arguments[theirs] = given[ours]
                call.arguments["transformer_options"] = given["transformer_options"]
                out = earlier(*call.args[1:], **call.kwargs)
                return dict(zip(gives, out if isinstance(out, tuple) else (out,), strict=True))

            given = {ours: call.arguments[theirs] for ours, theirs in names.items()}
            options = call.arguments.get("transformer_options")
            out = patch({**given, "transformer_options": options}, original)
            return tuple(out[one] for one in gives) if len(gives) > 1 else out[gives[0]]

        model.add_object_patch(f"{name}.forward", forward)

    return around


def in_one_sequence(
    around: Callable[[Any, int, Patch], None], text: Callable[[dict], int]
) -> Callable[[Any, int, Patch], None]:
    """Let patches see apart what a block has as one: of its `img`, `text` tokens come first."""

    def around_parts(model: Any, index: int, patch: Patch) -> None:
        def parting(args: dict, original: Callable[[dict], dict]) -> dict:
            start = text(args)

            def joining(given: dict) -> dict[str, Tensor]:
                joined = original({**given, "img": torch.cat([given["txt"], given["img"]], dim=1)})
                return parted(joined["img"], start)

            out = patch({**args, **parted(args["img"], start)}, joining)
            return {"img": torch.cat([out["txt"], out["img"]], dim=1)}

        around(model, index, parting)

    return around_parts


def parted(sequence: Tensor, text: int) -> dict[str, Tensor]:
    """A sequence as its text and its picture."""
    return {"txt": sequence[:, :text], "img": sequence[:, text:]}


@dataclasses.dataclass(frozen=True)
class Tiny:
    """What the law tests need of a family."""

    model: Callable[[], comfy.model_patcher.ModelPatcher]
    clip: type
    prompt: Callable[..., Conditioning]
    """prompt(seed, tokens=..., pooled=..., **more): pooled 0 is the concepts' own modulation."""
    enter: Callable[[nn.Module, Tensor], Tensor]
    """The text stream `b t (head d)` before block 0, of text-encoder rows."""
    block: Callable[[nn.Module, int], nn.Module]
    as_text: Callable[[dict, Tensor, int, int], dict]
    """as_text(args, concepts, text, patches): the arguments of a block that was called with `args`,
    with the concepts as its text and `patches` of the picture."""
    placeless: Callable[[nn.Module], tuple[nn.Module, nn.Module]]
    """The modules of a block that give the image's queries and the text's keys before positions."""
    queries: Callable[[Any], Tensor] = lambda normed: normed[0]
    keys: Callable[[Any], Tensor] = lambda normed: normed[1]
    """Queries and keys `b head n d` in what these modules gave."""
    renew: Callable[[nn.Module, Tensor, Tensor, int], Tensor] = lambda _n, _r, stream, _i: stream
    """renew(network, rows, stream, index): the text stream as block `index` is given it, where not
    all of it is what the block before gave."""
    run: Callable[[nn.Module, dict, dict], dict] = run_block
    """run(block, args, transformer_options): what a block makes of `img` and `txt`."""
    around: Callable[[Any, int, Patch], None] = around_slot
    """around(model, index, patch): how another pack puts a patch around a block."""
    wrapped: bool = True
    """Whether ComfyUI's DIFFUSION_MODEL wrappers are called for it."""
    overridden: bool = True
    """Whether another attention in ComfyUI's place for these takes the place of its own."""
    channels: int = 16
    patch: int = 2
    """Latent cells along a side of a patch."""
    scale: int = 8
    """Pixels along a side of a latent cell."""
    numbered: bool = False
    """Whether its text stands at positions of its own."""
    readings: int = 1
    """How many tokens a word has in its text."""
    frames: int = 0
    """How many frames its latents have; 0 without an axis for them."""
    text_last: bool = False
    """Whether the picture comes before the text in its joint attention."""
    needs: str = "Flux"
    """The class of comfy.supported_models that versions without the family lack."""
    references: bool = False
    """Whether latents of other pictures may stand behind this one's, or before them."""
    reference: tuple[int, int] = (6, 9)
    """The h and w of such a latent."""

    def recorded(self, words: str = CONCEPTS, model: Any = None, **spec) -> Any:
        return record(model or self.model(), self.clip(), RecordSpec(parse(words), **spec))

    def latent(self, b: int = 1, h: int = 13, w: int = 22, seed: int = 0) -> Tensor:
        """Noise; odd sides need padding to whole patches."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.empty(b, h, w).shape, generator=generator)

    def empty(self, b: int, h: int, w: int) -> Tensor:
        frames = (self.frames,) if self.frames else ()
        return torch.zeros(b, self.channels, *frames, h, w)

    def sample(
        self,
        model: Any,
        size: tuple[int, int, int] = (2, 5, 7),
        *,
        steps: int = 2,
        cfg: float = 1.0,
        sampler: str = "euler",
        positive: Conditioning | None = None,
        negative: Conditioning | None = None,
        start: Tensor | None = None,
        seed: int = 0,
        **more,
    ) -> Tensor:
        with torch.inference_mode():  # as ComfyUI runs its nodes
            return comfy.sample.sample(
                model, self.latent(*size, seed=seed), steps, cfg, sampler, "simple",
                self.prompt(1) if positive is None else positive,
                self.prompt(2) if negative is None else negative,
                self.empty(*size) if start is None else start,
                seed=seed, disable_pbar=True, **more,
            )  # fmt: skip


def random_weights(
    config: Any, weights: dict[str, Tensor] | None = None
) -> comfy.model_patcher.ModelPatcher:
    """A model of this configuration with random weights, or with those given."""
    model = config.get_model({}, "")
    generator = torch.Generator().manual_seed(0)
    weights = weights or {
        name: random_weight(name, torch.randn(value.shape, generator=generator))
        for name, value in model.diffusion_model.state_dict().items()
    }
    model.load_model_weights(weights, "")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def lora_for(model: Any) -> dict[str, Tensor]:
    """A LoRA of rank 2 on the attention of both streams in every joint block."""
    generator = torch.Generator().manual_seed(0)
    lora = {}
    for name, weight in model.model.diffusion_model.state_dict().items():
        of_attention = ("attn" in name or "attention" in name) and name.endswith(".weight")
        if of_attention and weight.ndim == 2:
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            rows, columns = weight.shape
            lora[f"{key}.lora_A.weight"] = torch.randn(2, columns, generator=generator) / 10
            lora[f"{key}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) / 10
    return lora


def random_weight(name: str, noise: Tensor) -> Tensor:
    if noise.ndim > 1:
        return noise * 1.5 * noise.shape[1] ** -0.5
    return noise * 0.1 + (1 if name.endswith(("weight", "scale")) else 0)  # norms about 1


def prompts(tokens: int = 5, **fixed) -> Callable[..., Conditioning]:
    """`Tiny.prompt`. Families without a pooled vector do not read theirs."""

    def prompt(seed: int, tokens: int = tokens, pooled: float = 1.0, **more) -> Conditioning:
        generator = torch.Generator().manual_seed(seed)
        vector = torch.randn(1, POOLED_WIDTH, generator=generator) * pooled
        rows = torch.randn(1, tokens, TEXT_WIDTH, generator=generator)
        return [[rows, {"pooled_output": vector, **fixed, **more}]]

    return prompt


def known(params: dict[str, Any], fields: type) -> dict[str, Any]:
    """Those of `params` that this ComfyUI's dataclass has."""
    names = {field.name for field in dataclasses.fields(fields)}
    return {name: value for name, value in params.items() if name in names}


def as_text_anywhere(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    """`Tiny.as_text` where text has no positions and no references stand behind the picture."""
    return {"img": args["img"].clone(), "txt": concepts.clone(), "vec": args["vec"]}


def heads_first(normed: Tensor) -> Tensor:
    return rearrange(normed, "b n head d -> b head n d")


def as_text(positions: Callable[[Tensor, int, int, int], Tensor]) -> Callable[..., dict]:
    """`Tiny.as_text` where `positions` gives those of the concepts and of the picture."""

    def arguments(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
        return {
            "img": args["img"][:, :patches].clone(),
            "txt": concepts.clone(),
            "vec": args["vec"],
            "pe": positions(args["pe"], concepts.shape[1], text, patches),
        }

    return arguments
