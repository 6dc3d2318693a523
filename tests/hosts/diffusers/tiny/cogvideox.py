"""CogVideoX at toy size: nine pictures in three cells of time."""

import torch
from conceptattention.conceptattention_core.recording import FrameLayout
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from .common import LENGTH, Tiny, ready, shake, t5, tokenizer


def tiny_cogvideox(*, rotary: bool = True, version: str = "1.0") -> CogVideoXPipeline:
    """5b; not `rotary`, it is 2b, whose positions are added before the first block."""
    torch.manual_seed(0)
    words = tokenizer("", "</s>")
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=40,
        num_layers=3,
        sample_width=10,
        sample_height=6,
        sample_frames=9,
        max_text_seq_length=LENGTH,
        use_rotary_positional_embeddings=rotary,
        patch_size_t=2 if version == "1.5" else None,
    )
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
    )
    language = t5(words)
    shake(transformer, language)
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0
    )
    return ready(CogVideoXPipeline(words, language, vae, transformer, scheduler))


TINY = Tiny(
    make=tiny_cogvideox,
    noise=(3, 4, 6, 10),
    call={"num_frames": 9, "guidance_scale": 1.0},
    guided={"negative_prompt": "a cat", "guidance_scale": 3.0},
    copies=None,
    time=FrameLayout(3, 4),
    image_first=True,
    heun=False,
)
