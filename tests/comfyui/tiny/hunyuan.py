"""HunyuanVideo at toy size: three frames, patches of one cell, as HunyuanVideo 1.5 has them."""

import inspect
from functools import cache

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.flux.layers import DoubleStreamBlock
from comfy.ldm.hunyuan_video.model import HunyuanVideoParams
from torch import Tensor, nn

from .common import Tiny, as_text, known, prompts, random_weights
from .words import POOLED_WIDTH, TEXT_WIDTH, TemplateReader

TEXT_LAST = "flipped_img_txt" in inspect.signature(DoubleStreamBlock).parameters
"""Whether this version of ComfyUI joins picture and text in this order."""

OWN_TOKENS = (1, 2, 1)
"""How many tokens the concepts of `common.CONCEPTS` have."""


class Llama(TemplateReader):
    dropped = 2

    def tokenize(self, text: str) -> dict:
        return {"l": [[(3, 1.0)] * 77], "llama": super().tokenize(text)["llm"]}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        return super().encode_from_tokens({"llm": tokens["llama"]}, return_dict)


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    params = {
        "in_channels": 16, "out_channels": 16, "patch_size": [1, 1, 1], "vec_in_dim": POOLED_WIDTH,
        "context_in_dim": TEXT_WIDTH, "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 3,
        "depth": 3, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 256,
        "qkv_bias": True, "guidance_embed": True, "byt5": False, "meanflow": False,
        "use_cond_type_embedding": True, "vision_in_dim": None, "meanflow_sum": False,
    }  # fmt: skip
    config = comfy.supported_models.HunyuanVideo(
        {"image_model": "hunyuan_video", **known(params, HunyuanVideoParams)}
    )
    config.set_inference_dtype(torch.float32, None)
    return random_weights(config)


def enter(network: nn.Module, rows: Tensor) -> Tensor:
    """The text stream before block 0 in the first step, each concept refined by itself."""
    first_step = torch.tensor([1000.0])
    refined = [network.txt_in(own[None], first_step, None) for own in rows.split(OWN_TOKENS)]
    stream = torch.cat(refined, dim=1)
    kinds = getattr(network, "cond_type_embedding", None)
    return stream if kinds is None else stream + kinds(torch.zeros(1, dtype=torch.long))


def at_origin(positions: Tensor, concepts: int, text: int, patches: int) -> Tensor:
    """Positions `b 1 n d/2 2 2` of a text at the origin and of the picture."""
    if TEXT_LAST:
        origin, picture = positions[:, :, -1:], positions[:, :, :patches]
    else:
        origin, picture = positions[:, :, :1], positions[:, :, text : text + patches]
    joined = [origin.expand(-1, -1, concepts, -1, -1, -1), picture]
    return torch.cat(joined[::-1] if TEXT_LAST else joined, dim=2)


TINY = Tiny(
    model=model,
    clip=Llama,
    prompt=prompts(guidance=6.0),
    enter=enter,
    block=lambda network, index: network.double_blocks[index],
    as_text=as_text(at_origin),
    placeless=lambda block: (block.img_attn.norm, block.txt_attn.norm),
    text_last=TEXT_LAST,
    patch=1,
    scale=16,
    frames=3,
    needs="HunyuanVideo",
)
