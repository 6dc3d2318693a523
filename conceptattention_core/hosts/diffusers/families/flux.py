"""Flux.1 (dev, schnell and everything fine-tuned from them) as diffusers runs it.

A concept is read by T5 alone, padded as a prompt is; its pooled vector is zeros and its position
the origin, where RoPE is the identity (arXiv 2502.04320, section 4 and the authors' defaults).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from einops import rearrange
from torch import Tensor, nn

from .... import ConceptAttentionError
from ....attention import ImageVectors
from ....recording import Grid
from .base import Family, Ride, see, vae_scale
from .joint_attention import TextSide, image_vectors
from .reading import own_rows

LENGTH, LENGTH_SCHNELL = 512, 256  # tokens


class Flux(Family):
    name = "Flux.1"

    def matches(self, transformer: Any) -> bool:
        return isinstance(transformer, FluxTransformer2DModel)

    def blocks(self, transformer: FluxTransformer2DModel) -> nn.ModuleList:
        return transformer.transformer_blocks

    def text_length(self, pipe: FluxPipeline) -> int:
        # Taking guidance as an input is what tells dev from schnell.
        full = LENGTH if pipe.transformer.config.guidance_embeds else LENGTH_SCHNELL
        return min(full, getattr(pipe.tokenizer_2, "model_max_length", full))

    def embed(self, pipe: Any, words: list[str], length: int) -> list[Tensor]:
        tokenizer = pipe.tokenizer_2
        if tokenizer is None or pipe.text_encoder_2 is None:
            raise ConceptAttentionError(
                "Flux.1 reads concepts with T5; this pipeline was loaded without it. "
                "Load it with text_encoder_2 and tokenizer_2."
            )
        with torch.no_grad():
            # all in one call of the text encoder, through everything the prompt goes through
            if pipe.text_encoder is None:  # CLIP, of which nothing is kept
                encoder = pipe.text_encoder_2
                encoded = pipe._get_t5_prompt_embeds(
                    words,
                    max_sequence_length=length,
                    device=pipe._execution_device,
                    dtype=encoder.dtype,
                )
            else:
                encoded = pipe.encode_prompt(words, words, max_sequence_length=length)[0]
        if hasattr(pipe, "maybe_convert_prompt"):  # a word the user taught the model
            words = pipe.maybe_convert_prompt(words, tokenizer)
        return own_rows(encoded, tokenizer, words, length)

    def grid(self, pipe: FluxPipeline, call: Mapping[str, Any]) -> Grid:
        ids = call["img_ids"]
        ids = ids[0] if ids.ndim == 3 else ids  # a batch axis is deprecated, not gone
        # Reference pictures come after, with another number in the first column.
        y, x = (int(n) + 1 for n in ids[ids[:, 0] == ids[0, 0], 1:].amax(dim=0))
        if y * x > len(ids):
            raise ConceptAttentionError(
                f"The patches of the picture should fill a grid; {type(pipe).__name__} gave "
                f"{len(ids)} patches for a grid of {y} by {x}."
            )
        return Grid.of_latent(2 * y, 2 * x, patch=2, scale=vae_scale(pipe))

    def encode(self, pipe: Any, pictures: Tensor) -> Tensor:
        config = pipe.vae.config
        return (see(pipe, pictures) - config.shift_factor) * config.scaling_factor

    def prepare(
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

    def enter(
        self,
        transformer: FluxTransformer2DModel,
        rows: Tensor,
        call: Mapping[str, Any],
        first: Mapping[str, Any],
    ) -> "FluxRide":
        image, text = first["hidden_states"], first["encoder_hidden_states"]
        concepts = transformer.context_embedder(rows.to(call["encoder_hidden_states"]))
        clocks = [call["timestep"], call.get("guidance")]
        temb = transformer.time_text_embed(
            *(clock[:1].to(image) * 1000 for clock in clocks if clock is not None),
            torch.zeros_like(call["pooled_projections"][:1]),
        )
        cos, sin = (table[text.shape[1] :] for table in first["image_rotary_emb"])
        return FluxRide(transformer.transformer_blocks, concepts[None], temb, (cos, sin))


@dataclass(frozen=True)
class FluxRide(Ride):
    """Its blocks are `FluxTransformerBlock`s."""

    temb: Tensor
    positions: tuple[Tensor, Tensor]  # cos and sin of the image, p d

    def block(self, index: int) -> TextSide:
        return TextSide(self.blocks[index], self.temb)

    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        positions = tuple(table[: q.shape[1]] for table in self.positions)
        attention: Any = self.blocks[index].attn
        place: Any = apply_rotary_emb  # annotated too narrowly
        return image_vectors(attention, q, k, v, outputs, lambda heads: place(heads, positions))
