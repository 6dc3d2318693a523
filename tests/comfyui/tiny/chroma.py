"""Chroma at toy size."""

from functools import cache
from typing import ClassVar

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.chroma.model import ChromaParams

from .common import Tiny, as_text, known, prompts, random_weights
from .flux import at_origin
from .words import TEXT_WIDTH, T5Reader


class UnpaddedT5(T5Reader):
    least = 0
    others: ClassVar = {}


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    params = {
        "in_channels": 64, "out_channels": 64, "patch_size": 2, "context_in_dim": TEXT_WIDTH,
        "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 3, "depth": 3, "depth_single_blocks": 1,
        "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True, "in_dim": 64, "out_dim": 48,
        "hidden_dim": 32, "n_layers": 1, "txt_ids_dims": [], "vec_in_dim": None,
    }  # fmt: skip
    config = comfy.supported_models.Chroma({"image_model": "chroma", **known(params, ChromaParams)})
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


TINY = Tiny(
    model=model,
    clip=UnpaddedT5,
    prompt=prompts(),
    enter=lambda network, rows: network.txt_in(rows),
    block=lambda network, index: network.double_blocks[index],
    as_text=as_text(at_origin),
    placeless=lambda block: (block.img_attn.norm, block.txt_attn.norm),
)
