"""Small models of every family, made from ComfyUI's own classes, and ways to sample with them.

To add a family, write its builder and list it in TINY: the law tests run over FAMILIES and fail
where one is missing here. Only the text encoder is a stand-in; its weight syntax is ComfyUI's own.
"""

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.ldm.flux.model
import comfy.model_patcher
import comfy.sample
import comfy.sd1_clip
import comfy.supported_models
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.patch import OVERRIDE, record
from conceptattention.conceptattention_core.recording import RecordSpec
from torch import Tensor, nn

Conditioning = list[list[Any]]

CONCEPTS = "cat, red dog, sky"
END, PAD, LENGTH = 1, 0, 16
TEXT_WIDTH, POOLED_WIDTH = 40, 24


class WordReader:
    """Stands in for Flux's CLIP: one T5 token a word, then the end, then pads."""

    def tokenize(self, text: str) -> dict[str, list[list[tuple[int, float]]]]:
        escaped = comfy.sd1_clip.escape_important(text)
        tokens = [
            (2 + sum(map(ord, word)), weight)
            for part, weight in comfy.sd1_clip.token_weights(escaped, 1.0)
            for word in re.findall(r"\w+", comfy.sd1_clip.unescape_important(part))
        ]
        pads = [(PAD, 1.0)] * (LENGTH - len(tokens) - 1)
        return {"l": [[(3, 1.0)] * 77], "t5xxl": [[*tokens, (END, 1.0), *pads]]}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        assert return_dict
        pieces = [piece for batch in tokens["t5xxl"] for piece in batch]
        ids, weights = (torch.tensor(column) for column in zip(*pieces))
        waves = torch.arange(1.0, TEXT_WIDTH + 1)
        return {"cond": (torch.sin(ids[:, None] * waves) * weights[:, None])[None]}


@dataclasses.dataclass(frozen=True)
class Tiny:
    """What the law tests need of a family."""

    model: Callable[[], comfy.model_patcher.ModelPatcher]
    clip: type
    prompt: Callable[..., Conditioning]
    """prompt(seed, tokens=..., pooled=..., **more): pooled 0 is the concepts' own modulation."""
    channels: int
    enter: Callable[[nn.Module, Tensor], Tensor]
    """The text stream `b t (head d)` before block 0, of text-encoder rows."""
    block: Callable[[nn.Module, int], nn.Module]
    as_text: Callable[[dict, Tensor, int, int], dict]
    """as_text(args, concepts, text, patches): the arguments of a block that was called with `args`,
    with the concepts as its text and `patches` of the picture."""
    placeless: Callable[[nn.Module], nn.Module]
    """The module of a block that gives the image's queries before positions, first of a tuple."""

    def recorded(self, words: str = CONCEPTS, model: Any = None, **spec) -> Any:
        return record(model or self.model(), self.clip(), RecordSpec(parse(words), **spec))

    def latent(self, b: int = 1, h: int = 13, w: int = 22, seed: int = 0) -> Tensor:
        """Noise; odd sides need padding to whole patches."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(b, self.channels, h, w, generator=generator)

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
                torch.zeros(size[0], self.channels, *size[1:]) if start is None else start,
                seed=seed, disable_pbar=True, **more,
            )  # fmt: skip


# --- Flux.1 ---------------------------------------------------------------------------------------


@cache
def flux() -> comfy.model_patcher.ModelPatcher:
    params = {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": POOLED_WIDTH,
        "context_in_dim": TEXT_WIDTH, "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 3,
        "depth": 3, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000,
        "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    }  # fmt: skip
    known = {field.name for field in dataclasses.fields(comfy.ldm.flux.model.FluxParams)}
    config = comfy.supported_models.Flux(
        {"image_model": "flux", **{name: v for name, v in params.items() if name in known}}
    )
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def flux_prompt(seed: int, tokens: int = 5, pooled: float = 1.0, **more) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(1, POOLED_WIDTH, generator=generator) * pooled
    rows = torch.randn(1, tokens, TEXT_WIDTH, generator=generator)
    return [[rows, {"pooled_output": vector, "guidance": 3.5, **more}]]


def flux_as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    at_origin = args["pe"][:, :, :1].expand(-1, -1, concepts.shape[1], -1, -1, -1)
    return {
        "img": args["img"][:, :patches].clone(),
        "txt": concepts.clone(),
        "vec": args["vec"],
        "pe": torch.cat([at_origin, args["pe"][:, :, text : text + patches]], dim=2),
    }


def random_weights(
    config: Any, weights: dict[str, Tensor] | None = None
) -> comfy.model_patcher.ModelPatcher:
    """A model of this configuration with random weights, or with those given."""
    model = config.get_model({}, "")
    generator = torch.Generator().manual_seed(0)
    weights = weights or {
        name: torch.randn(value.shape, generator=generator)
        * (1.5 * value.shape[1] ** -0.5 if value.ndim > 1 else 0.1)
        for name, value in model.diffusion_model.state_dict().items()
    }
    model.load_model_weights(weights, "")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


TINY: dict[str, Tiny] = {
    "Flux.1": Tiny(
        model=flux,
        clip=WordReader,
        prompt=flux_prompt,
        channels=16,
        enter=lambda network, rows: network.txt_in(rows),
        block=lambda network, index: network.double_blocks[index],
        as_text=flux_as_text,
        placeless=lambda block: block.img_attn.norm,
    ),
}


# --- other packs ----------------------------------------------------------------------------------


def with_block_patch(model: Any, index: int = 1) -> Any:
    """Another pack's patch, of the usual kind: it runs the block and changes its image."""

    def patch(args, extra):
        out = extra["original_block"](args)
        return {**out, "img": out["img"] * 1.25}

    patched = model.clone()
    patched.set_model_patch_replace(patch, "dit", "double_block", index)
    return patched


def with_replaced_block(model: Any, index: int) -> Any:
    """Another pack that never runs the block itself."""
    patched = model.clone()
    patched.set_model_patch_replace(
        lambda args, extra: {"img": args["img"] * 1.25, "txt": args["txt"]},
        "dit", "double_block", index,
    )  # fmt: skip
    return patched


def with_attention_override(model: Any) -> Any:
    """Another pack's attention: the usual one, a little weaker."""

    def override(attention, *args, **kwargs):
        return attention(*args, **kwargs) * 0.75

    patched = model.clone()
    patched.model_options["transformer_options"][OVERRIDE] = override
    return patched


# --- nodes ----------------------------------------------------------------------------------------


def call(node: type, **inputs) -> tuple:
    """The outputs of a node, written for either of ComfyUI's two APIs."""
    with torch.inference_mode():
        if hasattr(node, "define_schema"):
            return node.execute(**inputs).result
        return getattr(node(), node.FUNCTION)(**inputs)
