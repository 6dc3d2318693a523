"""Mochi at toy size: three frames, patches of one cell."""

from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

from .common import Conditioning, Tiny, heads_first, prompts, random_weights
from .words import TEXT_WIDTH, T5Reader

WIDE, WIDE_MLP = 48, 1536 * 8  # ComfyUI insists on the latter


@cache
def model() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.GenmoMochi({
        "image_model": "mochi_preview", "depth": 3, "patch_size": 1, "num_heads": 3,
        "hidden_size_x": WIDE, "hidden_size_y": 32, "mlp_ratio_x": WIDE_MLP / WIDE,
        "mlp_ratio_y": 2.0, "learn_sigma": False, "in_channels": 12, "qk_norm": True,
        "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True,
        "posenc_preserve_area": True, "timestep_mlp_bias": True, "attend_to_padding": False,
        "timestep_scale": 1000.0, "use_t5": True, "t5_feat_dim": TEXT_WIDTH,
        "t5_token_length": 16, "rope_theta": 10000.0,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    patcher = random_weights(config)
    # what prompts have in common is nothing: the picture is modulated as concepts are
    for weight in patcher.model.diffusion_model.t5_y_embedder.to_out.parameters():
        torch.nn.init.zeros_(weight)
    return patcher


def prompt(seed: int, tokens: int = 5, pooled: float = 1.0, **more: Any) -> Conditioning:
    """Two tokens of padding follow, which the joint attention does without."""
    ((rows, options),) = prompts()(seed, tokens + 2, pooled, **more)
    mask = torch.tensor([[1] * tokens + [0] * 2])
    return [[rows, {**options, "attention_mask": mask}]]


class MaskingT5(T5Reader):
    """Tells which of its tokens are no padding, as Mochi's does."""

    def encode_from_tokens_scheduled(self, tokens: dict, add_dict: dict) -> list:
        told = torch.tensor([[int(number != 0) for number, _ in tokens["t5xxl"][0]]])
        return super().encode_from_tokens_scheduled(tokens, {**add_dict, "attention_mask": told})


def run(block: Any, args: dict, options: dict) -> dict[str, Tensor]:
    image, text = block(
        args["img"],
        args["vec"],
        args["txt"],
        rope_cos=args["rope_cos"],
        rope_sin=args["rope_sin"],
        crop_y=args["txt"].shape[1],
        transformer_options=options,
    )
    return {"img": image, "txt": text}


def as_text(args: dict, concepts: Tensor, text: int, patches: int) -> dict:
    level = model().model.diffusion_model.t_embedder(torch.zeros(len(concepts)), args["vec"].dtype)
    return {**args, "img": args["img"].clone(), "txt": concepts.clone(), "vec": level}


TINY = Tiny(
    model=model,
    clip=MaskingT5,
    prompt=prompt,
    enter=lambda network, rows: network.t5_yproj(rows),
    block=lambda network, index: network.blocks[index],
    run=run,
    as_text=as_text,
    placeless=lambda block: (block.attn.q_norm_x, block.attn.k_norm_y),
    queries=heads_first,
    keys=heads_first,
    text_last=True,
    wrapped=False,
    channels=12,
    patch=1,
    frames=3,
    needs="GenmoMochi",
)
