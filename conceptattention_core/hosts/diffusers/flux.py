"""Flux.1 (dev, schnell and everything fine-tuned from them) as diffusers runs it.

A concept is read by T5 alone, padded as a prompt is; its pooled vector is zeros and its position
the origin, where RoPE is the identity (arXiv 2502.04320, section 4 and the authors' defaults).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from einops import rearrange
from torch import Tensor, nn

from ... import ConceptAttentionError
from ...attention import ImageVectors
from ...recording import Grid

LENGTH, LENGTH_SCHNELL = 512, 256  # tokens


class Flux:
    name = "Flux.1"
    time_unit = 1000

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
            encoded = pipe.encode_prompt(words, words, max_sequence_length=length)[0]
        if hasattr(pipe, "maybe_convert_prompt"):  # a word the user taught the model
            words = pipe.maybe_convert_prompt(words, tokenizer)
        tokens = tokenizer(
            words,
            padding="max_length",
            max_length=length,
            truncation=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        own = tokens["special_tokens_mask"].to(encoded.device) == 0
        return [rows[kept] for rows, kept in zip(encoded, own, strict=True)]

    def patch_pixels(self, pipe: Any) -> int:
        return 2 * pipe.vae_scale_factor

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
        return Grid.of_latent(2 * y, 2 * x, patch=2, scale=pipe.vae_scale_factor)

    def encode(self, pipe: Any, pictures: Tensor) -> Tensor:
        vae = pipe.vae
        with torch.no_grad():
            latent = vae.encode(pictures.to(pipe._execution_device, vae.dtype) * 2 - 1).latent_dist
        return (latent.mode() - vae.config.shift_factor) * vae.config.scaling_factor

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
            *(clock.to(image) * 1000 for clock in clocks if clock is not None),
            torch.zeros_like(call["pooled_projections"]),
        )
        cos, sin = (table[text.shape[1] :] for table in first["image_rotary_emb"])
        return FluxRide(
            transformer.transformer_blocks, concepts.expand(len(image), -1, -1), temb, (cos, sin)
        )


@dataclass(frozen=True)
class FluxRide:
    blocks: nn.ModuleList  # of FluxTransformerBlock
    concepts: Tensor
    temb: Tensor
    positions: tuple[Tensor, Tensor]  # cos and sin of the image, p d

    def block(self, index: int) -> "FluxBlock":
        return FluxBlock(self.blocks[index], self.temb)

    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        attention: Any = self.blocks[index].attn
        q, k, v = (_split(x, attention.heads) for x in (q, k, v))
        cos, sin = (table[: k.shape[2]] for table in self.positions)
        place: Any = apply_rotary_emb  # annotated too narrowly
        return ImageVectors(
            keys=place(attention.norm_k(k), (cos, sin)),
            values=v,
            outputs=outputs,
            unplaced_queries=lambda: attention.norm_q(q),
            queries=lambda: place(attention.norm_q(q), (cos, sin)),
        )


@dataclass
class FluxBlock:
    block: Any  # a FluxTransformerBlock
    temb: Tensor
    gates: list[Tensor] = field(default_factory=list)
    """Attention gate, then shift, scale and gate of the MLP: they come with the first norm."""

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        modulated, *self.gates = self.block.norm1_context(concepts, emb=self.temb)
        attention = self.block.attn
        if attention.fused_projections:
            projected = attention.to_added_qkv(modulated).chunk(3, dim=-1)
        else:
            layers = (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
            projected = [layer(modulated) for layer in layers]
        q, k, v = (_split(x, attention.heads) for x in projected)
        return attention.norm_added_q(q), attention.norm_added_k(k), v

    def place(self, heads: Tensor) -> Tensor:
        return heads  # at the origin

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        gate, shift, scale, mlp_gate = (by[:, None] for by in self.gates)
        concepts = concepts + gate * self.block.attn.to_add_out(attended)
        modulated = self.block.norm2_context(concepts) * (1 + scale) + shift
        concepts = concepts + mlp_gate * self.block.ff_context(modulated)
        if concepts.dtype == torch.float16:  # the block guards its own text stream the same way
            concepts = concepts.clip(-65504, 65504)
        return concepts


def _split(x: Tensor, heads: int) -> Tensor:
    return rearrange(x, "b n (head d) -> b head n d", head=heads)
