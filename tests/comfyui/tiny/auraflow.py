"""AuraFlow at toy size: three joint blocks, one single block."""

from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

from .common import Tiny, as_text_anywhere, heads_first, prompts, random_weights
from .words import TEXT_WIDTH, Ids, Reader, pad, read, vectors

MOST = 16


class PileT5(Reader):
    def tokenize(self, text: str) -> dict[str, list[Ids]]:
        return {"pile_t5xl": [pad([*read(text), (2, 1.0)], 16, 1)]}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        assert return_dict
        return {"cond": vectors([piece for batch in tokens["pile_t5xl"] for piece in batch])[None]}


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.AuraFlow({
        "cond_seq_dim": TEXT_WIDTH, "dim": 48, "n_layers": 4, "n_double_layers": 3, "n_heads": 3,
        "global_conddim": 48, "in_channels": 4, "out_channels": 4, "max_seq": MOST**2,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def run(block: Any, args: dict, options: dict) -> dict[str, Tensor]:
    text, image = block(args["txt"], args["img"], args["vec"], transformer_options=options)
    return {"txt": text, "img": image}


TINY = Tiny(
    model=model,
    clip=PileT5,
    prompt=prompts(),
    enter=lambda network, rows: network.cond_seq_linear(rows),
    block=lambda network, index: network.double_layers[index],
    run=run,
    as_text=as_text_anywhere,
    placeless=lambda block: (block.attn.q_norm2, block.attn.k_norm1),
    queries=heads_first,
    keys=heads_first,
    channels=4,
    needs="AuraFlow",
)
