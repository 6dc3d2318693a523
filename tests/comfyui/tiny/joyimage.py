"""JoyImage-Edit at toy size."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

from .common import Tiny, heads_first, prompts, random_weights
from .qwen_image import CroppedTemplate
from .words import TEXT_WIDTH

HEADS = 3


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.JoyImage({
        "image_model": "joyimage", "patch_size": [1, 2, 2], "in_channels": 16, "hidden_size": 48,
        "num_attention_heads": HEADS, "text_dim": TEXT_WIDTH, "num_layers": 3,
    })  # fmt: skip
    config.unet_config["rope_dim_list"] = [4, 6, 6]  # it fills in its own
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def run(block: Any, args: dict, options: dict) -> dict[str, Tensor]:
    image, text = block(
        hidden_states=args["img"],
        encoder_hidden_states=args["txt"],
        temb=args["vec"],
        image_rotary_emb=args["pe"],
        transformer_options=options,
    )
    return {"img": image, "txt": text}


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    return {
        "img": args["img"][:, :patches].clone(),
        "txt": concepts.clone(),
        "vec": args["vec"],
        "pe": args["pe"][:, :patches],
    }


@dataclass(frozen=True)
class ImageQueries:
    """In place of the norm, which the block never calls: it norms and places in one stroke."""

    attention: Any

    def register_forward_hook(self, hook: Callable) -> Any:
        def normed(module: Any, given: Any, projected: Tensor) -> None:
            queries = projected.chunk(3, dim=-1)[0].unflatten(-1, (HEADS, -1))
            hook(module, given, self.attention.img_attn_q_norm(queries))

        return self.attention.img_attn_qkv.register_forward_hook(normed)


TINY = Tiny(
    model=model,
    clip=CroppedTemplate,
    prompt=prompts(tokens=7),
    enter=lambda network, rows: network.condition_embedder.text_embedder(rows[None]),
    block=lambda network, index: network.double_blocks[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (ImageQueries(block.attn), block.attn.txt_attn_k_norm),
    queries=heads_first,
    keys=heads_first,
    references=True,
    text_last=True,
    frames=1,
    needs="JoyImage",
)
