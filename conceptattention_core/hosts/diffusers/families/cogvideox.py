"""CogVideoX (2b, 5b and 1.5): one set of weights for both streams, modulated apart.

A concept is read by T5 alone, padded as a prompt is (arXiv 2502.04320, section 5.4). Text has no
positions and there is no pooled vector.

In diffusers: models/transformers/cogvideox_transformer_3d.py, `CogVideoXBlock`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from ....locating import blend_at_unit_variance, noise_ratio
from ....recording import FrameLayout, Grid
from ....text_side import Heads, Modulation, TextSide, split_heads
from ....tokens import ConceptTokens
from ..calls import BlockCall, ModelCall
from .base import ConceptStream, VideoFamily, encode_single_frames, no_rope, vae_scale
from .joint_attention import normed, rope_of
from .reading import own_tokens


class CogVideoX(VideoFamily):
    name = "CogVideoX"
    model = "diffusers.models.transformers.cogvideox_transformer_3d.CogVideoXTransformer3DModel"
    encoder = "T5"
    time_unit = 1
    stride = 8  # cells are decoded in twos: of an even number the first is not one frame alone

    def attention(self, block: Any) -> Any:
        return block.attn1

    def text_length(self, pipe: Any) -> int:
        return pipe.transformer.config.max_text_seq_length

    def embed(self, pipe: Any, words: list[str], length: int) -> list[ConceptTokens]:
        with torch.no_grad():
            encoded, _ = pipe.encode_prompt(
                words, do_classifier_free_guidance=False, max_sequence_length=length
            )
        return own_tokens(encoded, pipe.tokenizer, words, length)

    def grid(self, pipe: Any, call: ModelCall) -> Grid:
        config = pipe.transformer.config
        _, latents, _, h, w = call.hidden_states.shape
        # 1.5 puts padding in front, which the pipeline drops after sampling
        time = FrameLayout(latents, pipe.vae_scale_factor_temporal, config.patch_size_t or 1)
        return Grid.of_latent(h, w, config.patch_size, vae_scale(pipe), time)

    def fps(self, pipe: Any) -> int:
        return 16 if pipe.transformer.config.patch_size_t else 8  # arXiv 2408.06072, and its 1.5

    def tokens_before_patches(self, call: ModelCall, first: BlockCall) -> int:
        return first.encoder_hidden_states.shape[1]

    def start_stream(
        self, transformer: Any, tokens: ConceptTokens, call: ModelCall, first: BlockCall
    ) -> ConceptStream:
        rows = tokens.rows.to(call.encoder_hidden_states)
        concepts = transformer.patch_embed.text_proj(rows)
        # where there is no rotation, positions were added before block 0
        rotary = first.image_rotary_emb
        rope = no_rope if rotary is None else rope_of(*rotary)
        return ConceptStream(concepts[None], partial(text_side, temb=first.temb[:1]), rope)

    def encode(self, pipe: Any, images: Tensor) -> Tensor:
        """Latents `b frame c h w`. 1.5 pads with the first frame up to a patch along time."""
        frames = pipe.transformer.config.patch_size_t or 1
        latent = encode_single_frames(pipe, images) * pipe.vae_scaling_factor_image
        return repeat(latent, "b c 1 h w -> b frame c h w", frame=frames)

    def blend(self, latent: Tensor, noise: Tensor, level: float) -> Tensor:
        return blend_at_unit_variance(latent, noise, level)

    def prepare_call(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        b, frames, _, h, w = shape
        with torch.no_grad():
            text, _ = pipe.encode_prompt(
                caption,
                do_classifier_free_guidance=False,
                num_videos_per_prompt=b,
                max_sequence_length=length,
            )
        rotary = None
        if pipe.transformer.config.use_rotary_positional_embeddings:
            pixels = (n * pipe.vae_scale_factor_spatial for n in (h, w))
            rotary = pipe._prepare_rotary_positional_embeddings(*pixels, frames, text.device)
        alphas = pipe.scheduler.alphas_cumprod
        ratios = (1 / alphas - 1).sqrt()  # of noise to latent at each timestep

        def arguments(latent: Tensor, level: float) -> dict[str, Any]:
            # the timestep at which the model was trained with the ratio that is nearest
            timestep = (ratios.log() - math.log(noise_ratio(level))).abs().argmin()
            return {
                "hidden_states": latent.to(text),
                "encoder_hidden_states": text,
                "timestep": timestep.to(text.device).expand(b),
                "image_rotary_emb": rotary,
            }

        return arguments


def text_side(block: Any, temb: Tensor) -> TextSide:
    """The attention's layers are the image's, too: their `forward` is called, past its hooks."""
    attention = block.attn1

    def project(modulated: Tensor) -> Heads:
        if attention.fused_projections:
            q, k, v = attention.to_qkv.forward(modulated).chunk(3, dim=-1)
        else:
            layers = (attention.to_q, attention.to_k, attention.to_v)
            q, k, v = (layer.forward(modulated) for layer in layers)
        q, k, v = split_heads(q, k, v, attention.heads)
        return normed(attention.norm_q, q), normed(attention.norm_k, k), v

    def modulation(norm: Any) -> Modulation:
        """Of the text: `CogVideoXLayerNormZero` has the image's in front of it."""
        parts = norm.linear(norm.silu(temb))
        return Modulation(*rearrange(parts, "b (six d) -> six b 1 d", six=6)[3:], fused=False)

    return TextSide(
        norm=block.norm1.norm,
        project=project,
        modulation=modulation(block.norm1),
        out=attention.to_out[0].forward,
        norm_mlp=block.norm2.norm,
        mlp=block.ff,
        modulation_mlp=modulation(block.norm2),
    )
