"""Stable Diffusion 3 and 3.5 (medium with its second, image-only attention; large).

A concept is read by the two CLIPs, as in the authors' code (arXiv 2502.04320), but alone and with
all its tokens. Its pooled vector is zeros. Text has no positions. The last block has no text side
beyond its keys and values, so a concept does not change there.

In diffusers: models/attention.py, `JointTransformerBlock`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ....attention import JointBlock
from ....recording import Grid
from ....text_side import KeysOnly, Modulation
from ....tokens import ConceptTokens
from ..calls import BlockCall, ModelCall
from .base import ConceptStream, Family, encode_images, vae_scale
from .joint_attention import text_heads, text_side
from .reading import own_tokens

LENGTH = 256  # tokens of T5, which reads prompts, too


class SD3(Family):
    name = "SD3"
    model = "diffusers.models.transformers.transformer_sd3.SD3Transformer2DModel"
    encoder = "its two CLIPs"
    encoder_parts = ("text_encoder", "text_encoder_2")
    time_unit = 1

    def text_length(self, pipe: Any) -> int:
        return min(LENGTH, getattr(pipe.tokenizer_3, "model_max_length", LENGTH))

    def embed(self, pipe: Any, words: list[str], length: int) -> list[ConceptTokens]:
        with torch.no_grad():
            encoded, *_ = pipe.encode_prompt(
                words, words, words, do_classifier_free_guidance=False, max_sequence_length=length
            )
        # T5's rows come after
        return own_tokens(encoded, pipe.tokenizer, words, pipe.tokenizer_max_length)

    def grid(self, pipe: Any, call: ModelCall) -> Grid:
        h, w = call.hidden_states.shape[-2:]
        return Grid.of_latent(h, w, pipe.transformer.config.patch_size, vae_scale(pipe))

    def start_stream(
        self, transformer: Any, tokens: ConceptTokens, call: ModelCall, first: BlockCall
    ) -> ConceptStream:
        concepts = transformer.context_embedder(tokens.rows.to(call.encoder_hidden_states))
        pooled = torch.zeros_like(call.pooled_projections[:1])
        temb = transformer.time_text_embed(call.timestep[:1], pooled)
        return ConceptStream(concepts[None], partial(any_text_side, temb=temb))

    def encode(self, pipe: Any, images: Tensor) -> Tensor:
        config = pipe.vae.config
        return (encode_images(pipe, images) - config.shift_factor) * config.scaling_factor

    def prepare_call(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        b = shape[0]
        with torch.no_grad():
            text, _, pooled, _ = pipe.encode_prompt(
                caption,
                caption,
                caption,
                num_images_per_prompt=b,
                do_classifier_free_guidance=False,
                max_sequence_length=length,
            )

        def arguments(latent: Tensor, level: float) -> dict[str, Any]:
            return {
                "hidden_states": latent.to(text),
                "timestep": torch.full((b,), 1000 * level, device=text.device),
                "encoder_hidden_states": text,
                "pooled_projections": torch.zeros_like(pooled),
            }

        return arguments


def any_text_side(block: Any, temb: Tensor) -> JointBlock:
    """The text side of any block; the last one's first norm is an `AdaLayerNormContinuous`."""
    if not block.context_pre_only:
        return text_side(block, temb)
    norm = block.norm1_context
    scale, shift = rearrange(norm.linear(norm.silu(temb)), "b (two d) -> two b 1 d", two=2)
    return KeysOnly(
        norm=norm.norm,
        project=partial(text_heads, block.attn),
        modulation=Modulation(shift, scale, fused=False),
    )
