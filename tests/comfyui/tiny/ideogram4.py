"""Ideogram 4 at toy size."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from einops import rearrange
from torch import Tensor, nn

from .common import Tiny, around_forward, in_one_sequence, prompts, random_weights
from .lumina import TOKENS, as_text, itself, run
from .words import TEXT_WIDTH, TemplateReader

NAMES = {"img": "x", "vec": "adaln_input", "pe": "freqs_cis"}


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    sizes = {
        "image_model": "ideogram4", "in_channels": 128, "num_layers": 3,
        "num_attention_heads": 3, "attention_head_dim": 16, "intermediate_size": 96,
        "adaln_dim": 32, "llm_features_dim": TEXT_WIDTH, "mrope_section": [4, 2, 2],
    }  # fmt: skip
    config = comfy.supported_models.Ideogram4(sizes)
    config.unet_config |= sizes  # ComfyUI fills in what is not told by the weights
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def enter(network: nn.Module, rows: Tensor) -> Tensor:
    """The text before block 0, marked as such."""
    marked = network.embed_image_indicator(torch.zeros(1, len(rows), dtype=torch.long))
    return network.llm_cond_proj(network.llm_cond_norm(rows[None])) + marked


def text_of(args: dict) -> int:
    """How many tokens are numbered one after another: the first pair is turned by one each."""
    turn = args["pe"][0, :, 0, 0]
    angles = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
    steps = (angles.diff() % math.tau - 1).abs() < 1e-3
    return 1 + int(steps.long().cumprod(0).sum())


@dataclass(frozen=True)
class Normed:
    """Stands in for a norm that ComfyUI computes together with the turns of positions."""

    attention: Any
    part: int  # queries, keys

    def register_forward_hook(self, hook: Any) -> Any:
        own = self.attention

        def after_projection(_module: nn.Module, _args: Any, out: Tensor) -> None:
            parts = rearrange(
                out, "b n (three head d) -> three b head n d", three=3, d=own.head_dim
            )
            hook(self, (), (own.norm_q, own.norm_k)[self.part](parts[self.part]))

        return own.qkv.register_forward_hook(after_projection)


TINY = Tiny(
    model=model,
    clip=TemplateReader,
    prompt=prompts(tokens=TOKENS),
    enter=enter,
    block=lambda network, index: network.layers[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (Normed(block.attention, 0), Normed(block.attention, 1)),
    queries=itself,
    keys=itself,
    around=in_one_sequence(around_forward("layers", NAMES, gives=("img",)), text_of),
    numbered=True,
    channels=128,
    patch=1,
    scale=16,
    needs="Ideogram4",
)
