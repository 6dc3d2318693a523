"""Lumina 2 and Z-Image at toy size: the first one as NewBie is, where ComfyUI has it."""

import inspect
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.lumina.model import JointAttention, JointTransformerBlock, NextDiT
from einops import rearrange, repeat
from torch import Tensor, nn

from .common import (
    Conditioning,
    Tiny,
    around_forward,
    in_one_sequence,
    parted,
    prompts,
    random_weights,
)
from .words import PLACES, POOLED_WIDTH, TEXT_WIDTH, TemplateReader

NAMES = {"img": "x", "vec": "adaln_input", "pe": "freqs_cis"}
if "timestep_zero_index" in inspect.signature(JointTransformerBlock.forward).parameters:
    NAMES["current"] = "timestep_zero_index"

TOKENS = 7

OWN_TOKENS = (1, 2, 1)
"""How many tokens the concepts of `common.CONCEPTS` have."""


def sized(name: str, **params) -> comfy.model_patcher.ModelPatcher:
    known = inspect.signature(NextDiT).parameters
    config = getattr(comfy.supported_models, name)({
        "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "qk_norm": True,
        "cap_feat_dim": TEXT_WIDTH, "n_layers": 3, "n_refiner_layers": 2, "multiple_of": 32,
        **{name: value for name, value in params.items() if name in known},
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


@cache
def lumina() -> comfy.model_patcher.ModelPatcher:
    return sized(
        "Lumina2", dim=64, n_heads=4, n_kv_heads=2, axes_dims=(4, 6, 6), clip_text_dim=POOLED_WIDTH
    )


@cache
def z_image() -> comfy.model_patcher.ModelPatcher:
    return sized(
        "ZImage", dim=256, n_heads=8, n_kv_heads=8, axes_dims=(8, 12, 12), rope_theta=256.0,
        z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=8,
    )  # fmt: skip


class Masked(TemplateReader):
    """With a mask, of which ComfyUI counts the tokens."""

    def encode_from_tokens_scheduled(self, tokens: dict, add_dict: dict) -> Conditioning:
        return masked(super().encode_from_tokens_scheduled(tokens, add_dict))


def masked(conditioning: Conditioning) -> Conditioning:
    ((rows, options),) = conditioning
    return [[rows, {**options, "attention_mask": torch.ones(rows.shape[:2], dtype=torch.long)}]]


def prompt(seed: int, tokens: int = TOKENS, **more) -> Conditioning:
    return masked(prompts()(seed, tokens, **more))


def enter(network: NextDiT, rows: Tensor) -> Tensor:
    """The caption before block 0, each concept refined by itself."""
    refined = []
    for own in rows[None].split(OWN_TOKENS, dim=1):
        places = torch.zeros(1, own.shape[1], 3)
        places[..., 0] = torch.arange(own.shape[1])
        own, turns = network.cap_embedder(own), network.rope_embedder(places).movedim(1, 2)
        for block in network.context_refiner:
            own = block(own, None, turns)
        refined.append(own)
    return torch.cat(refined, dim=1)


def text_of(args: dict) -> int:
    """How many tokens stand before the picture, which lies farthest along the first axis."""
    slowest = args["pe"].shape[-3] // 4 - 1  # of the axis' turns, which are a quarter of all
    sine = args["pe"][0, :, 0, slowest, 1, 0]
    return int(sine.argmax())


def run(block: nn.Module, args: dict, options: dict) -> dict[str, Tensor]:
    # what another pack last put in place of its forward is still there
    whole = type(block).forward(
        block, torch.cat([args["txt"], args["img"]], dim=1), None, args["pe"], args["vec"],
        transformer_options=options,
    )  # fmt: skip
    return parted(whole, args["txt"].shape[1])


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    caption = args["current"][1][0] if "current" in args else 0
    at = [*(caption + TOKENS + place for place in PLACES), *range(text, text + patches)]
    return {
        "img": args["img"][:, :patches].clone(),
        "txt": concepts.clone(),
        "vec": args["vec"][-len(concepts) :],  # of the noise level that references do not have
        "pe": args["pe"][:, at],
    }


@dataclass(frozen=True)
class Normed:
    """Stands in for a norm that ComfyUI computes together with the turns of positions."""

    attention: JointAttention
    part: int  # queries, keys

    def register_forward_hook(self, hook: Any) -> Any:
        own = self.attention

        def after_projection(_module: nn.Module, _args: Any, out: Tensor) -> None:
            heads = rearrange(out, "b n (head d) -> b head n d", d=own.head_dim)
            part = heads.split([own.n_local_heads, *[own.n_local_kv_heads] * 2], dim=1)[self.part]
            normed = (own.q_norm, own.k_norm)[self.part](part)
            times = own.n_local_heads // part.shape[1]
            hook(self, (), repeat(normed, "b head n d -> b (head times) n d", times=times))

        return own.qkv.register_forward_hook(after_projection)


def itself(normed: Tensor) -> Tensor:
    return normed


TINY = Tiny(
    model=lumina,
    clip=Masked,
    prompt=prompt,
    enter=enter,
    block=lambda network, index: network.layers[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (Normed(block.attention, 0), Normed(block.attention, 1)),
    queries=itself,
    keys=itself,
    around=in_one_sequence(around_forward("layers", NAMES, gives=("img",)), text_of),
    numbered=True,
    needs="Lumina2",
)

Z_IMAGE = replace(TINY, model=z_image, references=True, reference=(6, 10), needs="ZImage")
