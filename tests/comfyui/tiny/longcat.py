"""LongCat-Image at toy size."""

from functools import cache

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.flux.model import FluxParams

from .common import Conditioning, Tiny, as_text, known, random_weights
from .words import TEXT_WIDTH, TemplateReader, in_template


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    params = {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": None,
        "context_in_dim": TEXT_WIDTH, "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 3,
        "depth": 3, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000,
        "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [1, 2],
    }  # fmt: skip
    config = comfy.supported_models.LongCatImage(
        {"image_model": "longcat_image", **known(params, FluxParams)}
    )
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def prompt(seed: int, tokens: int = 7, pooled: float = 1.0, **more) -> Conditioning:
    """LongCat has no pooled vector; whatever is connected is not read."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, tokens, TEXT_WIDTH, generator=generator)
    return [[rows, {"pooled_output": torch.randn(1, 8) * pooled, **more}]]


TINY = Tiny(
    model=model,
    clip=TemplateReader,
    prompt=prompt,
    enter=lambda network, rows: network.txt_in(rows),
    block=lambda network, index: network.double_blocks[index],
    as_text=as_text(in_template),
    placeless=lambda block: (block.img_attn.norm, block.txt_attn.norm),
    numbered=True,
    needs="LongCatImage",
)
