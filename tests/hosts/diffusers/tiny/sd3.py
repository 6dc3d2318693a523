"""Stable Diffusion 3.5 medium at toy size: two of three blocks attend to the image twice."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection

from .common import Tiny, autoencoder, clip_config, ready, shake, t5, tokenizer

WIDTH, WIDTH_2 = 12, 20  # of the CLIPs: narrower than T5 even side by side


def tiny_sd3(*, newer: bool = True) -> StableDiffusion3Pipeline:
    """Version 3.5; not `newer`, it is 3.0, without norms and second attention."""
    torch.manual_seed(0)
    t5_words, clip_words = tokenizer("", "</s>"), tokenizer("<s>", "</s>")
    transformer = SD3Transformer2DModel(
        sample_size=8,
        num_layers=3,
        attention_head_dim=64,  # ComfyUI knows no other
        num_attention_heads=3,  # and takes as many as there are blocks
        joint_attention_dim=40,
        caption_projection_dim=192,
        pooled_projection_dim=WIDTH + WIDTH_2,
        pos_embed_max_size=24,
        dual_attention_layers=(0, 1) if newer else (),
        qk_norm="rms_norm" if newer else None,
    )
    clips = [CLIPTextModelWithProjection(clip_config(clip_words, n)) for n in (WIDTH, WIDTH_2)]
    language, vae = t5(t5_words), autoencoder(1.5305, 0.0609)
    shake(transformer, language, *clips)
    return ready(
        StableDiffusion3Pipeline(
            transformer,
            FlowMatchEulerDiscreteScheduler(),
            vae,
            clips[0],
            clip_words,
            clips[1],
            clip_words,
            language,
            t5_words,
        )
    )


TINY = Tiny(
    make=tiny_sd3,
    noise=(16, 6, 10),
    call={"guidance_scale": 1.0},
    guided={"negative_prompt": "a cat", "guidance_scale": 3.0},
    start=1,
    fuses=False,  # not with norms or a second attention
)
