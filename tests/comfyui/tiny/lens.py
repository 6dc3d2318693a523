"""Lens at toy size, reading two layers of its text encoder."""

from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor, nn

from .common import Tiny, heads_first, prompts, random_weights
from .qwen_image import CroppedTemplate
from .words import PLACES, TEXT_WIDTH

LAYERS = 2


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.Lens({
        "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 3,
        "attention_head_dim": 16, "num_attention_heads": 3, "enc_hidden_dim": TEXT_WIDTH // LAYERS,
        "axes_dims_rope": (4, 6, 6), "selected_layer_index": tuple(range(LAYERS)),
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def enter(network: nn.Module, rows: Tensor) -> Tensor:
    layers = zip(network.txt_norm, rows.chunk(LAYERS, dim=-1), strict=True)
    return network.txt_in(torch.cat([norm(layer) for norm, layer in layers], dim=-1))


def run(block: Any, args: dict, options: dict) -> dict[str, Tensor]:
    text, image = block(
        hidden_states=args["img"],
        encoder_hidden_states=args["txt"],
        temb=args["vec"],
        freqs_cis=args["pe"],
        transformer_options=options,
    )
    return {"img": image, "txt": text}


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    length = args["pe"].shape[2]
    at = [*range(patches), *(length + place for place in PLACES)]
    return {
        "img": args["img"].clone(),
        "txt": concepts.clone(),
        "vec": args["vec"],
        "pe": args["pe"][:, :, at],
    }


TINY = Tiny(
    model=model,
    clip=CroppedTemplate,
    prompt=prompts(tokens=7),
    enter=enter,
    block=lambda network, index: network.transformer_blocks[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (block.attn.norm_q, block.attn.norm_added_k),
    queries=heads_first,
    keys=heads_first,
    text_last=True,
    numbered=True,
    channels=128,
    patch=1,
    scale=16,
    needs="Lens",
)
