"""The double-stream block that Flux.1, Flux.2 and Chroma share, and its rotary positions."""

from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, ModulationOut
from einops import rearrange
from torch import Tensor

from .base import Places
from .positions import place, unplace


@dataclass(frozen=True)
class DoubleStreamRide:
    """Concepts on their way through `double_blocks`."""

    model: Any
    concepts: Tensor
    positions: Tensor  # b 1 (t p) d/2 2 2
    vec: Tensor | None
    """What modulates the concepts; None where each block is given its modulation."""
    turns: Tensor | None = None
    """The positions `1 1 t d/2 2 2` of the concepts; None at the origin, where they do nothing."""

    def block(self, index: int, vec: Any) -> "DoubleStream":
        block = self.model.double_blocks[index]
        before_attention, before_mlp = vec[1] if self.vec is None else block.txt_mod(self.vec)
        return DoubleStream(block, before_attention, before_mlp, self.turns)

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return unplace(queries, self.positions[:, :, image])


@dataclass(frozen=True)
class DoubleStream:
    """The text side of a block."""

    block: DoubleStreamBlock
    before_attention: ModulationOut
    before_mlp: ModulationOut
    turns: Tensor | None

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        modulated = _modulate(self.block.txt_norm1(concepts), self.before_attention)
        q, k, v = rearrange(
            self.block.txt_attn.qkv(modulated),
            "b t (three head d) -> three b head t d",
            three=3,
            head=self.block.num_heads,
        )
        q, k = self.block.txt_attn.norm(q, k, v)
        return q, k, v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads if self.turns is None else place(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.before_attention.gate * self.block.txt_attn.proj(attended)
        modulated = _modulate(self.block.txt_norm2(concepts), self.before_mlp)
        concepts = concepts + self.before_mlp.gate * self.block.txt_mlp(modulated)
        if concepts.dtype == torch.float16:  # the block guards its own text stream the same way
            concepts = concepts.nan_to_num(nan=0.0, posinf=65504, neginf=-65504)
        return concepts


def _modulate(normed: Tensor, by: ModulationOut) -> Tensor:
    return torch.addcmul(by.shift, normed, 1 + by.scale)
