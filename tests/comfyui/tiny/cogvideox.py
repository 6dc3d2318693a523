"""CogVideoX at toy size: three frames, patches of one cell along time, as all but 1.5 have them."""

from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

from .common import Tiny, around_forward, heads_first, prompts, random_weights
from .words import TEXT_WIDTH, T5Reader

NAMES = {
    "img": "hidden_states",
    "txt": "encoder_hidden_states",
    "vec": "temb",
    "pe": "image_rotary_emb",
}


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.CogVideoX_T2V({
        "image_model": "cogvideox", "num_attention_heads": 3, "attention_head_dim": 16,
        "in_channels": 16, "out_channels": 16, "time_embed_dim": 24,
        "text_embed_dim": TEXT_WIDTH, "num_layers": 3, "patch_size": 2,
        "use_rotary_positional_embeddings": True, "sample_width": 8, "sample_height": 8,
        "sample_frames": 9, "max_text_seq_length": 16,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def run(block: Any, args: dict, options: dict) -> dict[str, Tensor]:
    named = {theirs: args[ours] for ours, theirs in NAMES.items()}
    # what another pack last put in place of its forward is still there
    image, text = type(block).forward(block, **named, transformer_options=options)
    return {"img": image, "txt": text}


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    return {**args, "img": args["img"].clone(), "txt": concepts.clone()}


TINY = Tiny(
    model=model,
    clip=T5Reader,
    prompt=prompts(),
    enter=lambda network, rows: network.patch_embed.text_proj(rows),
    block=lambda network, index: network.blocks[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (block.norm_q, block.norm_k),
    queries=heads_first,
    keys=heads_first,
    around=around_forward("blocks", NAMES),
    frames=3,
    needs="CogVideoX_T2V",
)
