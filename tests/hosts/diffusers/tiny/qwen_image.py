"""Qwen-Image at toy size."""

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from .common import Tiny, ready, shake, tokenizer

TEMPLATE, DROPPED = "system the user : {} end", 2  # tokens


def language_model(words: int) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "vocab_size": words,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )


def tiny_qwen() -> QwenImagePipeline:
    torch.manual_seed(0)
    words = tokenizer("", "</s>", closed=False)
    transformer = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=3,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(8, 12, 12),
    )
    language = language_model(len(words))
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    shake(transformer, language)
    pipe = ready(
        QwenImagePipeline(FlowMatchEulerDiscreteScheduler(), vae, language, words, transformer)
    )
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = TEMPLATE, DROPPED
    return pipe


TINY = Tiny(
    make=tiny_qwen,
    noise=(3 * 5, 64),
    call={"true_cfg_scale": 1.0},
    start=2,
    has_places=True,
    fuses=False,
)
