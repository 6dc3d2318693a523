"""Flux.2 (dev and Klein): Flux's blocks, one modulation for all of them, and a numbered text.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken (arXiv 2502.04320 took one of them). It stands at the places that they have there. There
is no pooled vector.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from einops import rearrange
from torch import Tensor, nn

from ....attention import ImageVectors
from ....classes import is_a
from ....recording import Grid
from .base import Family, Ride, see
from .joint_attention import guarded, image_vectors, text_heads
from .reading import places_of, read_template

if TYPE_CHECKING:  # diffusers has it since 0.36
    from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

LENGTH = 512  # tokens, those of the template included


class Flux2(Family):
    name = "Flux.2"

    def matches(self, transformer: Any) -> bool:
        module = "diffusers.models.transformers.transformer_flux2"
        return is_a(transformer, f"{module}.Flux2Transformer2DModel")

    def blocks(self, transformer: "Flux2Transformer2DModel") -> nn.ModuleList:
        return transformer.transformer_blocks

    def text_length(self, pipe: Any) -> int:
        return min(LENGTH, getattr(pipe.tokenizer, "model_max_length", LENGTH))

    def embed(self, pipe: Any, words: list[str], length: int) -> list[Tensor]:
        return read_template(pipe, words, length, self.name)

    def grid(self, pipe: Any, call: Mapping[str, Any]) -> Grid:
        ids = call["img_ids"]
        ids = ids[0] if ids.ndim == 3 else ids
        # pictures to refer to have other numbers in the first column
        y, x = (int(n) + 1 for n in ids[ids[:, 0] == 0, 1:3].amax(dim=0))
        return Grid.of_latent(y, x, patch=1, scale=self.patch_pixels(pipe))

    def before_patches(self, call: Mapping[str, Any], first: Mapping[str, Any]) -> int:
        # Klein KV projects pictures to refer to once, in front, and remembers their keys
        return call.get("num_ref_tokens", 0) if call.get("kv_cache_mode") == "extract" else 0

    def encode(self, pipe: Any, pictures: Tensor) -> Tensor:
        patches = rearrange(see(pipe, pictures), "b c (y i) (x j) -> b (c i j) y x", i=2, j=2)
        norm = pipe.vae.bn
        mean, variance = (
            rearrange(figures, "c -> c 1 1").to(patches)
            for figures in (norm.running_mean, norm.running_var)
        )
        return (patches - mean) / (variance + pipe.vae.config.batch_norm_eps).sqrt()

    def prepare(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        b = shape[0]
        with torch.no_grad():
            text, text_ids = pipe.encode_prompt(
                caption, num_images_per_prompt=b, max_sequence_length=length
            )
        guided = getattr(pipe.transformer.config, "guidance_embeds", True)
        image_ids = pipe._prepare_latent_ids(torch.empty(shape)).to(text.device)

        def arguments(latent: Tensor, level: float) -> dict[str, Any]:
            return {
                "hidden_states": rearrange(latent, "b c y x -> b (y x) c").to(text),
                "timestep": torch.full((b,), level, device=text.device, dtype=text.dtype),
                "guidance": torch.zeros(b, device=text.device) if guided else None,
                "encoder_hidden_states": text,
                "txt_ids": text_ids,
                "img_ids": image_ids,
            }

        return arguments

    def enter(
        self,
        transformer: "Flux2Transformer2DModel",
        rows: Tensor,
        call: Mapping[str, Any],
        first: Mapping[str, Any],
    ) -> "Flux2Ride":
        text = call["encoder_hidden_states"]
        length = text.shape[1]
        rows, (places,) = places_of(rows, torch.tensor([length], device=text.device))
        concepts = transformer.context_embedder(rows.to(text))
        modulation = rearrange(first["temb_mod_txt"][:1], "b (six d) -> six b 1 d", six=6)
        waves = first["image_rotary_emb"]
        start = length + self.before_patches(call, first)
        return Flux2Ride(
            transformer.transformer_blocks,
            concepts[None],
            modulation,
            tuple(wave[places] for wave in waves),
            tuple(wave[start:] for wave in waves),
        )


@dataclass(frozen=True)
class Flux2Ride(Ride):
    """Its blocks are `Flux2TransformerBlock`s."""

    modulation: Tensor  # six b 1 d
    waves: tuple[Tensor, ...]  # cos and sin of the concepts, t d
    image_waves: tuple[Tensor, ...]  # p d

    def block(self, index: int) -> "Flux2Block":
        return Flux2Block(self.blocks[index], *self.modulation, waves=self.waves)

    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        attention: Any = self.blocks[index].attn
        waves = tuple(wave[: q.shape[1]] for wave in self.image_waves)
        place: Any = apply_rotary_emb  # annotated too narrowly
        return image_vectors(attention, q, k, v, outputs, lambda heads: place(heads, waves))


@dataclass(frozen=True)
class Flux2Block:
    """The text side of a block. The modulation is `b 1 d`."""

    block: Any  # a Flux2TransformerBlock
    shift: Tensor
    scale: Tensor
    gate: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    waves: tuple[Tensor, ...]

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        modulated = self.block.norm1_context(concepts) * (1 + self.scale) + self.shift
        return text_heads(self.block.attn, modulated)

    def apply_rope(self, heads: Tensor) -> Tensor:
        place: Any = apply_rotary_emb
        return place(heads, self.waves)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.gate * self.block.attn.to_add_out(attended)
        modulated = self.block.norm2_context(concepts) * (1 + self.scale_mlp) + self.shift_mlp
        return guarded(concepts + self.gate_mlp * self.block.ff_context(modulated))
