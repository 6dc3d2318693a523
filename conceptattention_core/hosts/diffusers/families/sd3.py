"""Stable Diffusion 3 and 3.5 (medium with its second, image-only attention; large).

A concept is read by the two CLIPs, as in the authors' code (arXiv 2502.04320), but alone and with
all its tokens. Its pooled vector is zeros. Text has no positions. The last block has no text side
beyond its keys and values, so a concept does not change there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn

from .... import ConceptAttentionError
from ....attention import ImageVectors
from ....recording import Grid
from .base import Family, Ride, see, vae_scale
from .joint_attention import TextSide, image_vectors, text_heads
from .reading import own_rows

LENGTH = 256  # tokens of T5, which reads prompts, too


class SD3(Family):
    name = "SD3"
    time_unit = 1

    def matches(self, transformer: Any) -> bool:
        return isinstance(transformer, SD3Transformer2DModel)

    def blocks(self, transformer: SD3Transformer2DModel) -> nn.ModuleList:
        return transformer.transformer_blocks

    def text_length(self, pipe: StableDiffusion3Pipeline) -> int:
        return min(LENGTH, getattr(pipe.tokenizer_3, "model_max_length", LENGTH))

    def embed(self, pipe: Any, words: list[str], length: int) -> list[Tensor]:
        if pipe.text_encoder is None or pipe.text_encoder_2 is None:
            raise ConceptAttentionError(
                "SD3 reads concepts with its two CLIPs; this pipeline was loaded without them. "
                "Load it with text_encoder and text_encoder_2."
            )
        with torch.no_grad():
            encoded, *_ = pipe.encode_prompt(
                words, words, words, do_classifier_free_guidance=False, max_sequence_length=length
            )
        # T5's rows come after
        return own_rows(encoded, pipe.tokenizer, words, pipe.tokenizer_max_length)

    def grid(self, pipe: StableDiffusion3Pipeline, call: Mapping[str, Any]) -> Grid:
        h, w = call["hidden_states"].shape[-2:]
        return Grid.of_latent(h, w, pipe.transformer.config.patch_size, vae_scale(pipe))

    def encode(self, pipe: Any, pictures: Tensor) -> Tensor:
        config = pipe.vae.config
        return (see(pipe, pictures) - config.shift_factor) * config.scaling_factor

    def prepare(
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

    def enter(
        self,
        transformer: SD3Transformer2DModel,
        rows: Tensor,
        call: Mapping[str, Any],
        first: Mapping[str, Any],
    ) -> "SD3Ride":
        concepts = transformer.context_embedder(rows.to(call["encoder_hidden_states"]))
        pooled = torch.zeros_like(call["pooled_projections"][:1])
        temb = transformer.time_text_embed(call["timestep"][:1], pooled)
        return SD3Ride(transformer.transformer_blocks, concepts[None], temb)


@dataclass(frozen=True)
class SD3Ride(Ride):
    """Its blocks are `JointTransformerBlock`s."""

    temb: Tensor

    def block(self, index: int) -> TextSide:
        block: Any = self.blocks[index]
        side = LastTextSide if block.context_pre_only else TextSide
        return side(block, self.temb)

    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        attention: Any = self.blocks[index].attn
        return image_vectors(attention, q, k, v, outputs)


class LastTextSide(TextSide):
    """Of the last block, which has no output for text."""

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return text_heads(self.block.attn, self.block.norm1_context(concepts, self.temb))

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        return concepts
