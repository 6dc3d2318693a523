"""Flux.2 at toy size, over 512 tokens of text as ComfyUI pads it."""

from functools import cache

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.flux.model import FluxParams

from .common import Tiny, as_text, known, prompts, random_weights
from .words import TEXT_WIDTH, TemplateReader, in_template


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    params = {
        "in_channels": 128, "out_channels": 128, "patch_size": 1, "vec_in_dim": None,
        "context_in_dim": TEXT_WIDTH, "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 3,
        "depth": 3, "depth_single_blocks": 1, "axes_dim": [4, 4, 4, 4], "theta": 2000,
        "qkv_bias": False, "guidance_embed": True, "txt_ids_dims": [3], "global_modulation": True,
        "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index",
    }  # fmt: skip
    config = comfy.supported_models.Flux2({"image_model": "flux2", **known(params, FluxParams)})
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


TINY = Tiny(
    model=model,
    clip=TemplateReader,
    prompt=prompts(guidance=3.5),
    enter=lambda network, rows: network.txt_in(rows),
    block=lambda network, index: network.double_blocks[index],
    as_text=as_text(in_template),
    placeless=lambda block: (block.img_attn.norm, block.txt_attn.norm),
    channels=128,
    patch=1,
    scale=16,
    numbered=True,
    needs="Flux2",
)
