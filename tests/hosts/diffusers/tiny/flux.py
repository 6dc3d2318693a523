"""Flux.1 at toy size."""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel

from .common import Tiny, autoencoder, clip_config, ready, shake, t5, tokenizer


def tiny_flux(*, guidance: bool = False) -> FluxPipeline:
    """Flux.1 with three double blocks; `guidance` makes it a dev, otherwise it is a schnell."""
    torch.manual_seed(0)
    t5_words, clip_words = tokenizer("", "</s>"), tokenizer("<s>", "</s>")
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=3,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=40,
        pooled_projection_dim=24,
        guidance_embeds=guidance,
        axes_dims_rope=(8, 12, 12),
    )
    language, clip = t5(t5_words), CLIPTextModel(clip_config(clip_words))
    vae = autoencoder(0.3611, 0.1159)
    shake(transformer, language, clip)
    return ready(
        FluxPipeline(
            FlowMatchEulerDiscreteScheduler(),
            vae,
            clip,
            clip_words,
            language,
            t5_words,
            transformer,
        )
    )


TINY = Tiny(make=tiny_flux, noise=(3 * 5, 64))


def save_tiny_flux(folder: Path) -> Path:
    """The same as a model folder, for commands."""
    tiny_flux().save_pretrained(folder)
    return folder
