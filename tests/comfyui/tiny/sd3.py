"""Stable Diffusion 3.5 medium at toy size: two of three blocks attend to the image twice."""

from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

from .common import Tiny, as_text_anywhere, heads_first, prompts, random_weights
from .words import POOLED_WIDTH, TEXT_WIDTH, T5Reader, number, pad, read, vectors

DEPTH, MOST = 2, 24
CLIP_WIDTH, START, END = TEXT_WIDTH - 8, 49406, 49407


class ClipsAndT5(T5Reader):
    """77 rows of CLIP, narrower than T5's and filled up with zeros, then T5's."""

    least = 77

    def tokenize(self, text: str) -> dict:
        own = pad([(START, 1.0), *read(text), (END, 1.0)], 77)
        return {"g": [own], "l": [own], **super().tokenize(text)}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        clip = torch.nn.functional.pad(vectors(tokens["g"][0], CLIP_WIDTH), (0, 8))
        t5 = super().encode_from_tokens(tokens, return_dict)["cond"][0]
        return {"cond": torch.cat([clip, t5])[None]}

    def row(self, word: str) -> Tensor:
        return torch.nn.functional.pad(vectors([(number(word), 1.0)], CLIP_WIDTH), (0, 8))


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    embedder = {"in_features": TEXT_WIDTH, "out_features": 64 * DEPTH}
    config = comfy.supported_models.SD3({
        "in_channels": 16, "patch_size": 2, "input_size": None, "depth": DEPTH, "num_blocks": 3,
        "adm_in_channels": POOLED_WIDTH, "qk_norm": "rms", "x_block_self_attn_layers": [0, 1],
        "context_embedder_config": {"target": "torch.nn.Linear", "params": embedder},
        "pos_embed_max_size": MOST, "num_patches": MOST**2, "pos_embed_scaling_factor": None,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def run(block: Any, args: dict, options: dict) -> dict[str, Tensor | None]:
    text, image = block(args["txt"], args["img"], c=args["vec"], transformer_options=options)
    return {"txt": text, "img": image}


TINY = Tiny(
    model=model,
    clip=ClipsAndT5,
    prompt=prompts(),
    enter=lambda network, rows: network.context_embedder(rows),
    block=lambda network, index: network.joint_blocks[index],
    run=run,
    as_text=as_text_anywhere,
    wrapped=False,
    placeless=lambda block: (block.x_block.attn.ln_q, block.context_block.attn.ln_k),
    queries=heads_first,
    keys=heads_first,
)
