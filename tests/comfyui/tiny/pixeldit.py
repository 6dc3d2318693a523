"""PixelDiT at toy size."""

from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor, nn

from .common import Tiny, around_forward, prompts, random_weights
from .words import TEXT_WIDTH, TemplateReader, pad

NAMES = {"img": "x", "txt": "y", "vec": "c", "pe": "pos_img", "text_pe": "pos_txt"}
TOKENS = 7
PLACES = (-5, -5, -4, -5)
"""Where the tokens of `common.CONCEPTS` stand in this template, from the end."""


class Gemma(TemplateReader):
    """Pads to the right, no template for an empty text, and rows from the middle left out."""

    after = ()
    least = TOKENS + 1

    def tokenize(self, text: str) -> dict:
        if not text.strip():
            return {"gemma2_2b": [pad(self.before[:1], TOKENS)]}
        return {"gemma2_2b": super().tokenize(text)["llm"]}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        rows = super().encode_from_tokens({"llm": tokens["gemma2_2b"]}, return_dict)["cond"]
        return {"cond": torch.cat([rows[:, :1], rows[:, 1 - TOKENS :]], dim=1)}


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.PixelDiTT2I({
        "image_model": "pixeldit_t2i", "num_groups": 3, "hidden_size": 48,
        "pixel_hidden_size": 8, "pixel_attn_hidden_size": 32, "pixel_num_groups": 2,
        "patch_depth": 3, "pixel_depth": 1, "patch_size": 2, "txt_embed_dim": TEXT_WIDTH,
        "txt_max_length": 16,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def enter(network: nn.Module, rows: Tensor) -> Tensor:
    places = [TOKENS + place for place in PLACES]
    return network.y_embedder(rows) + network.y_pos_embedding[:, places]


def run(block: Any, args: dict, options: dict) -> dict[str, Tensor]:
    named = {theirs: args[ours] for ours, theirs in NAMES.items()}
    image, text = type(block).forward(block, **named, transformer_options=options)
    return {"img": image, "txt": text}


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    places = [text + place for place in PLACES]
    return {
        **args,
        "img": args["img"].clone(),
        "txt": concepts.clone(),
        "text_pe": args["text_pe"][places],
    }


TINY = Tiny(
    model=model,
    clip=Gemma,
    prompt=prompts(tokens=TOKENS),
    enter=enter,
    block=lambda network, index: network.patch_blocks[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (block.attn.q_norm_x, block.attn.k_norm_y),
    queries=lambda normed: normed,
    keys=lambda normed: normed,
    around=around_forward("patch_blocks", NAMES),
    numbered=True,
    channels=3,
    scale=1,
    needs="PixelDiTT2I",
)
