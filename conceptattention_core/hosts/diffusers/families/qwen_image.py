"""Qwen-Image. Pictures to refer to stand behind the picture's patches.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken; it stands at the places that they have there. There is no pooled vector.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .... import ConceptAttentionError
from ....attention import ImageVectors
from ....classes import is_a
from ....recording import Grid
from .base import Family, Ride, see_still, vae_scale
from .joint_attention import guarded, image_vectors, text_heads
from .reading import own_span, places_of, with_column

if TYPE_CHECKING:  # diffusers has it since 0.35
    from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

LENGTH = 512  # tokens; prompts are not padded up to it


class QwenImage(Family):
    name = "Qwen-Image"

    def matches(self, transformer: Any) -> bool:
        module = "diffusers.models.transformers.transformer_qwenimage"
        return is_a(transformer, f"{module}.QwenImageTransformer2DModel")

    def blocks(self, transformer: "QwenImageTransformer2DModel") -> nn.ModuleList:
        return transformer.transformer_blocks

    def text_length(self, pipe: Any) -> int:
        return LENGTH

    def embed(self, pipe: Any, words: list[str], length: int) -> list[Tensor]:
        if pipe.text_encoder is None:
            raise ConceptAttentionError(
                "Qwen-Image reads concepts with its language model; this pipeline was loaded "
                "without it. Load it with text_encoder and tokenizer."
            )
        with torch.no_grad():
            encoded, _ = pipe.encode_prompt(words, max_sequence_length=length)
        template, dropped = pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx
        texts = [template.format(text) for text in ("", *words)]
        empty, *read = (pipe.tokenizer(text).input_ids for text in texts)
        rows = []
        for kept, ids in zip(encoded, read, strict=True):
            own = own_span(ids, empty)
            places = range(own.start - len(ids), own.stop - len(ids))
            rows.append(with_column(kept[own.start - dropped : own.stop - dropped], places))
        return rows

    def grid(self, pipe: Any, call: Mapping[str, Any]) -> Grid:
        first = call["img_shapes"][0]  # of the batch; ControlNet's pipelines give one shape each
        _, y, x = first[0] if isinstance(first, list) else first  # pictures to refer to come after
        return Grid.of_latent(2 * y, 2 * x, patch=2, scale=vae_scale(pipe))

    def encode(self, pipe: Any, pictures: Tensor) -> Tensor:
        latent = see_still(pipe, pictures)[:, :, 0]
        mean, std = (
            rearrange(torch.tensor(figures).to(latent), "c -> c 1 1")
            for figures in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
        )
        return (latent - mean) / std

    def prepare(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        b, _, h, w = shape
        with torch.no_grad():
            text, mask = pipe.encode_prompt(
                caption, num_images_per_prompt=b, max_sequence_length=length
            )
        guided = pipe.transformer.config.guidance_embeds

        def arguments(latent: Tensor, level: float) -> dict[str, Any]:
            patches = rearrange(latent, "b c (y i) (x j) -> b (y x) (c i j)", i=2, j=2)
            return {
                "hidden_states": patches.to(text),
                "timestep": torch.full((b,), level, device=text.device, dtype=text.dtype),
                "guidance": torch.zeros(b, device=text.device) if guided else None,
                "encoder_hidden_states": text,
                "encoder_hidden_states_mask": mask,
                "img_shapes": [[(1, h // 2, w // 2)]] * b,
            }

        return arguments

    def enter(
        self,
        transformer: "QwenImageTransformer2DModel",
        rows: Tensor,
        call: Mapping[str, Any],
        first: Mapping[str, Any],
    ) -> "QwenRide":
        text = call["encoder_hidden_states"]
        mask = call.get("encoder_hidden_states_mask")
        if mask is None:
            mask = text.new_ones(1, text.shape[1])
        rows, places = places_of(rows, mask.sum(dim=1).long())
        concepts = transformer.txt_in(transformer.txt_norm(rows.to(text)))
        image_turns, text_turns = first["image_rotary_emb"]
        turns = rearrange(text_turns[places], "b t d -> b 1 t d")
        # with reference pictures a second half follows, for the noise level 0 that they have
        temb = first["temb"][:1]
        return QwenRide(transformer.transformer_blocks, concepts[None], temb, turns, image_turns)


@dataclass(frozen=True)
class QwenRide(Ride):
    """Its blocks are `QwenImageTransformerBlock`s."""

    temb: Tensor
    turns: Tensor  # of the concepts, complex, b 1 t d/2
    image_turns: Tensor  # p d/2

    def block(self, index: int) -> "QwenBlock":
        block: Any = self.blocks[index]
        modulation = rearrange(block.txt_mod(self.temb), "b (six d) -> six b 1 d", six=6)
        return QwenBlock(block, *modulation, turns=self.turns)

    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        attention: Any = self.blocks[index].attn
        turns = self.image_turns[: q.shape[1]]
        return image_vectors(attention, q, k, v, outputs, lambda heads: turn(heads, turns))


@dataclass(frozen=True)
class QwenBlock:
    """The text side of a block. The modulation is `b 1 d`."""

    block: Any  # a QwenImageTransformerBlock
    shift: Tensor
    scale: Tensor
    gate: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        modulated = self.block.txt_norm1(concepts) * (1 + self.scale) + self.shift
        return text_heads(self.block.attn, modulated)

    def apply_rope(self, heads: Tensor) -> Tensor:
        return turn(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.gate * self.block.attn.to_add_out(attended)
        modulated = self.block.txt_norm2(concepts) * (1 + self.scale_mlp) + self.shift_mlp
        return guarded(concepts + self.gate_mlp * self.block.txt_mlp(modulated))


def turn(heads: Tensor, turns: Tensor) -> Tensor:
    """Queries or keys `b head n d` at their positions; `turns` are complex, .. n d/2."""
    pairs = rearrange(heads.float(), "b head n (d two) -> b head n d two", two=2)
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turns)
    return rearrange(turned, "b head n d two -> b head n (d two)").to(heads)
