"""Flux.1 (dev, schnell and everything fine-tuned from them) as diffusers runs it.

A concept is read by T5 alone, padded as a prompt is; its pooled vector is zeros and its position
the origin, where RoPE is the identity (arXiv 2502.04320, section 4 and the authors' defaults).

In diffusers: models/transformers/transformer_flux.py, `FluxTransformerBlock`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .... import ConceptAttentionError
from ....recording import Grid
from ....tokens import ConceptTokens
from ..calls import BlockCall, ModelCall
from .base import ConceptStream, Family, encode_images, vae_scale
from .joint_attention import rope_of, text_side
from .reading import own_tokens

LENGTH, LENGTH_SCHNELL = 512, 256  # tokens


class Flux(Family):
    name = "Flux.1"
    model = "diffusers.models.transformers.transformer_flux.FluxTransformer2DModel"
    encoder = "T5"
    encoder_parts = ("text_encoder_2", "tokenizer_2")

    def text_length(self, pipe: Any) -> int:
        # Taking guidance as an input is what tells dev from schnell.
        full = LENGTH if pipe.transformer.config.guidance_embeds else LENGTH_SCHNELL
        return min(full, getattr(pipe.tokenizer_2, "model_max_length", full))

    def embed(self, pipe: Any, words: list[str], length: int) -> list[ConceptTokens]:
        with torch.no_grad():
            # all in one call of the text encoder, through everything the prompt goes through
            if pipe.text_encoder is None:  # CLIP, of which nothing is kept
                encoded = pipe._get_t5_prompt_embeds(
                    words,
                    max_sequence_length=length,
                    device=pipe._execution_device,
                    dtype=pipe.text_encoder_2.dtype,
                )
            else:
                encoded = pipe.encode_prompt(words, words, max_sequence_length=length)[0]
        if hasattr(pipe, "maybe_convert_prompt"):  # a word the user taught the model
            words = pipe.maybe_convert_prompt(words, pipe.tokenizer_2)
        return own_tokens(encoded, pipe.tokenizer_2, words, length)

    def grid(self, pipe: Any, call: ModelCall) -> Grid:
        ids = call.img_ids
        ids = ids[0] if ids.ndim == 3 else ids  # a batch axis is deprecated, not gone
        # Reference images come after, with another number in the first column.
        y, x = (int(n) + 1 for n in ids[ids[:, 0] == ids[0, 0], 1:].amax(dim=0))
        if y * x > len(ids):
            raise ConceptAttentionError(
                f"The patches of the image should fill a grid; {type(pipe).__name__} gave "
                f"{len(ids)} patches for a grid of {y} by {x}."
            )
        return Grid.of_latent(2 * y, 2 * x, patch=2, scale=vae_scale(pipe))

    def start_stream(
        self, transformer: Any, tokens: ConceptTokens, call: ModelCall, first: BlockCall
    ) -> ConceptStream:
        concepts = transformer.context_embedder(tokens.rows.to(call.encoder_hidden_states))
        levels = [level for level in (call.timestep, call.guidance) if level is not None]
        temb = transformer.time_text_embed(
            *(level[:1].to(first.hidden_states) * 1000 for level in levels),
            torch.zeros_like(call.pooled_projections[:1]),
        )
        text = first.encoder_hidden_states.shape[1]
        cos, sin = first.image_rotary_emb
        rope = rope_of(cos[text:], sin[text:])
        return ConceptStream(concepts[None], partial(text_side, temb=temb), rope)

    def encode(self, pipe: Any, images: Tensor) -> Tensor:
        config = pipe.vae.config
        return (encode_images(pipe, images) - config.shift_factor) * config.scaling_factor

    def prepare_call(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        b, _, h, w = shape
        with torch.no_grad():
            text, pooled, text_ids = pipe.encode_prompt(
                caption, caption, num_images_per_prompt=b, max_sequence_length=length
            )
        image_ids = pipe._prepare_latent_image_ids(b, h // 2, w // 2, text.device, text.dtype)
        guided = pipe.transformer.config.guidance_embeds

        def arguments(latent: Tensor, level: float) -> dict[str, Any]:
            patches = rearrange(latent, "b c (y i) (x j) -> b (y x) (c i j)", i=2, j=2)
            return {
                "hidden_states": patches.to(text),
                "timestep": torch.full((b,), level, device=text.device, dtype=text.dtype),
                "guidance": torch.zeros(b, device=text.device) if guided else None,
                "encoder_hidden_states": text,
                "pooled_projections": torch.zeros_like(pooled),
                "txt_ids": text_ids,
                "img_ids": image_ids,
            }

        return arguments
