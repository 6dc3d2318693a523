"""HunyuanVideo at toy size: nine pictures in three cells of time."""

import torch
from conceptattention.conceptattention_core.recording import FrameLayout
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import CLIPTextModel, LlamaConfig, LlamaModel

from .common import Tiny, clip_config, ready, shake, tokenizer


def tiny_hunyuan_video() -> HunyuanVideoPipeline:
    torch.manual_seed(0)
    words, clip_words = tokenizer("", "</s>", closed=False), tokenizer("<s>", "</s>")
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=32,
        num_layers=3,
        num_single_layers=1,
        num_refiner_layers=2,  # ComfyUI knows no other number
        text_embed_dim=32,
        pooled_projection_dim=24,
        rope_axes_dim=(8, 12, 12),
    )
    llama = LlamaModel(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
        )
    )
    clip = CLIPTextModel(clip_config(clip_words))
    vae = AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
    )
    shake(transformer, llama, clip)
    return ready(
        HunyuanVideoPipeline(
            llama,
            words,
            transformer,
            vae,
            FlowMatchEulerDiscreteScheduler(),
            clip,
            clip_words,
        )
    )


TINY = Tiny(
    make=tiny_hunyuan_video,
    noise=(4, 3, 6, 10),
    call={"num_frames": 9},
    copies="num_videos_per_prompt",
    time=FrameLayout(3, 4),
    image_first=True,
    start=99 - 95,  # the template's tokens here, less those that the pipeline drops
    fuses=False,
)
