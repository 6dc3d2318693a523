"""Boogu at toy size: two blocks of two streams and one of a single sequence, grouped heads."""

from dataclasses import replace
from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor, nn

from . import omnigen2
from .common import Patch, around_forward, in_one_sequence, random_weights
from .lumina import Masked, text_of
from .words import TEXT_WIDTH

NAMES = {
    "img": "img_hidden_states",
    "txt": "instruct_hidden_states",
    "pe": "joint_rotary_emb",
    "image_pe": "img_rotary_emb",
    "vec": "temb",
}
OF_TWO_STREAMS = 2


class Instructed(Masked):
    """An empty text has another template than all others."""

    def tokenize(self, text: str) -> dict:
        if text:
            return super().tokenize(text)
        return {"llm": [[*self.before[:1], (106, 1.0), *self.after]]}


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.Boogu({
        "image_model": "boogu", "patch_size": 2, "in_channels": 16, "hidden_size": 64,
        "num_layers": 1, "num_double_stream_layers": OF_TWO_STREAMS, "num_refiner_layers": 2,
        "num_attention_heads": 4, "num_kv_heads": 2, "multiple_of": 32,
        "axes_dim_rope": (4, 6, 6), "instruction_feat_dim": TEXT_WIDTH,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def block(network: nn.Module, index: int) -> nn.Module:
    return [*network.double_stream_layers, *network.single_stream_layers][index]


def run(block: nn.Module, args: dict, options: dict) -> dict[str, Tensor]:
    if not hasattr(block, "img_instruct_attn"):
        return omnigen2.run(block, args, options)
    image, text = type(block).forward(
        block, args["img"], args["txt"], args["pe"], args["pe"][:, args["txt"].shape[1] :],
        args["vec"], transformer_options=options,
    )  # fmt: skip
    return {"img": image, "txt": text}


def around(model: Any, index: int, patch: Patch) -> None:
    """Let patches see references with the text, in whose stream they are not."""
    if index >= OF_TWO_STREAMS:
        names = omnigen2.NAMES
        single = around_forward("single_stream_layers", names, gives=("img",))
        in_one_sequence(single, text_of)(model, index - OF_TWO_STREAMS, patch)
        return

    def regrouping(args: dict, original: Any) -> dict:
        text, start = args["txt"].shape[1], text_of(args)

        def grouped(given: dict) -> dict[str, Tensor]:
            whole = torch.cat([given["txt"], given["img"]], dim=1)
            return {"txt": whole[:, :start], "img": whole[:, start:]}

        def apart(given: dict) -> dict[str, Tensor]:
            whole = torch.cat([given["txt"], given["img"]], dim=1)
            return {"txt": whole[:, :text], "img": whole[:, text:]}

        def on_the_streams(given: dict) -> dict[str, Tensor]:
            return grouped(original({**given, **apart(given)}))

        return apart(patch({**args, **grouped(args)}, on_the_streams))

    around_forward("double_stream_layers", NAMES)(model, index, regrouping)


TINY = replace(
    omnigen2.TINY,
    model=model,
    clip=Instructed,
    block=block,
    run=run,
    placeless=lambda block: (attention(block).norm_q, attention(block).norm_k),
    around=around,
    needs="Boogu",
)


def attention(block: nn.Module) -> nn.Module:
    return block.img_instruct_attn if hasattr(block, "img_instruct_attn") else block.attn
