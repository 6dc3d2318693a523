"""Flux.1 at toy size."""

from functools import cache

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.flux.model import FluxParams
from torch import Tensor

from .common import Tiny, as_text, known, prompts, random_weights
from .words import POOLED_WIDTH, TEXT_WIDTH, T5Reader


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    params = {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": POOLED_WIDTH,
        "context_in_dim": TEXT_WIDTH, "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 3,
        "depth": 3, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000,
        "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    }  # fmt: skip
    config = comfy.supported_models.Flux({"image_model": "flux", **known(params, FluxParams)})
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def at_origin(positions: Tensor, concepts: int, text: int, patches: int) -> Tensor:
    """Positions `b 1 n d/2 2 2` of a text at the origin and of the picture."""
    origin = positions[:, :, :1].expand(-1, -1, concepts, -1, -1, -1)
    return torch.cat([origin, positions[:, :, text : text + patches]], dim=2)


TINY = Tiny(
    model=model,
    clip=T5Reader,
    prompt=prompts(guidance=3.5),
    enter=lambda network, rows: network.txt_in(rows),
    block=lambda network, index: network.double_blocks[index],
    as_text=as_text(at_origin),
    placeless=lambda block: (block.img_attn.norm, block.txt_attn.norm),
    references=True,
)
