"""Mage-Flow at toy size."""

from functools import cache

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

from .common import Tiny, as_text, prompts, random_weights
from .qwen_image import CroppedTemplate, run
from .words import TEXT_WIDTH


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.MageFlow({
        "image_model": "mage_flow", "in_channels": 128, "out_channels": 128, "num_layers": 3,
        "attention_head_dim": 16, "num_attention_heads": 3, "joint_attention_dim": TEXT_WIDTH,
        "axes_dims_rope": (4, 6, 6),
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def at_origin(positions: Tensor, concepts: int, text: int, patches: int) -> Tensor:
    """Positions `b 1 n d/2 2 2` of a text at the origin, where all text is, and of the picture."""
    origin, picture = positions[:, :, :1], positions[:, :, text : text + patches]
    return torch.cat([origin.expand(-1, -1, concepts, -1, -1, -1), picture], dim=2)


TINY = Tiny(
    model=model,
    clip=CroppedTemplate,
    prompt=prompts(tokens=7),
    enter=lambda network, rows: network.txt_in(network.txt_norm(rows)),
    block=lambda network, index: network.transformer_blocks[index],
    run=run,
    as_text=as_text(at_origin),
    placeless=lambda block: (block.attn.norm_q, block.attn.norm_added_k),
    queries=lambda normed: normed,
    keys=lambda normed: normed,
    references=True,
    channels=128,
    patch=1,
    scale=16,
    needs="MageFlow",
)
