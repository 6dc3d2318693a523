"""The joint block that most families share: projections for the image, others for the text."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ....attention import ImageVectors

Place = Callable[[Tensor], Tensor]  # b head n d, put at its positions


def nowhere(heads: Tensor) -> Tensor:
    """Queries or keys without positions."""
    return heads


def text_heads(attention: Any, modulated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, values `b head t d` of the text side, before positions."""
    if attention.fused_projections:
        projected = attention.to_added_qkv(modulated).chunk(3, dim=-1)
    else:
        layers = (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
        projected = [layer(modulated) for layer in layers]
    q, k, v = (split(x, attention) for x in projected)
    return normed(attention.norm_added_q, q), normed(attention.norm_added_k, k), v


def image_vectors(
    attention: Any, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor, place: Place = nowhere
) -> ImageVectors:
    """The image side, from what its projections gave, all `b p (head d)`."""
    q, k, v = (split(x, attention) for x in (q, k, v))
    return ImageVectors(
        keys=place(normed(attention.norm_k, k)),
        values=v,
        outputs=outputs,
        queries_before_rope=lambda: normed(attention.norm_q, q),
        queries=lambda: place(normed(attention.norm_q, q)),
    )


@dataclass
class TextSide:
    """The text side of a block whose first norm brings the modulation of all that follows."""

    block: Any
    temb: Tensor
    gates: list[Tensor] = field(default_factory=list)
    """Attention gate, then shift, scale and gate of the MLP: they come with the first norm."""

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        modulated, *self.gates = self.block.norm1_context(concepts, emb=self.temb)
        return text_heads(self.block.attn, modulated)

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads  # at the origin

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        gate, shift, scale, mlp_gate = (by[:, None] for by in self.gates)
        concepts = concepts + gate * self.block.attn.to_add_out(attended)
        modulated = self.block.norm2_context(concepts) * (1 + scale) + shift
        return guarded(concepts + mlp_gate * self.block.ff_context(modulated))


def guarded(concepts: Tensor) -> Tensor:
    """Blocks guard their own text stream the same way."""
    return concepts.clip(-65504, 65504) if concepts.dtype == torch.float16 else concepts


def split(x: Tensor, attention: Any) -> Tensor:
    return rearrange(x, "b n (head d) -> b head n d", head=attention.heads)


def normed(norm: Any, heads: Tensor) -> Tensor:
    """Some models go without norms."""
    return heads if norm is None else norm(heads)
