"""Qwen-Image at toy size."""

from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from einops import rearrange
from torch import Tensor

from .common import Tiny, prompts, random_weights
from .words import PLACES, TEXT_WIDTH, TemplateReader


class CroppedTemplate(TemplateReader):
    dropped = 2


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.QwenImage({
        "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "patch_size": 2,
        "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 3,
        "joint_attention_dim": TEXT_WIDTH, "axes_dims_rope": (4, 6, 6),
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def run(block: Any, args: dict, options: dict) -> dict[str, Tensor]:
    text, image = block(
        hidden_states=args["img"],
        encoder_hidden_states=args["txt"],
        encoder_hidden_states_mask=None,
        temb=args["vec"],
        image_rotary_emb=args["pe"],
        transformer_options=options,
    )
    return {"txt": text, "img": image}


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    axis = 2 if args["pe"].shape[1] == 1 else 1  # of the tokens; it moved between versions
    at = [*(text + place for place in PLACES), *range(text, text + patches)]
    return {
        "img": args["img"][:, :patches].clone(),
        "txt": concepts.clone(),
        "vec": args["vec"],
        "pe": args["pe"].index_select(axis, torch.tensor(at)),
    }


def heads_first(normed: Tensor) -> Tensor:
    """The axes of heads and tokens changed places between versions."""
    return normed if normed.shape[1] == 3 else rearrange(normed, "b n head d -> b head n d")


TINY = Tiny(
    model=model,
    clip=CroppedTemplate,
    prompt=prompts(tokens=7),
    enter=lambda network, rows: network.txt_in(network.txt_norm(rows)),
    block=lambda network, index: network.transformer_blocks[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (block.attn.norm_q, block.attn.norm_added_k),
    queries=heads_first,
    keys=heads_first,
    references=True,
    numbered=True,
    needs="QwenImage",
    frames=1,
)
