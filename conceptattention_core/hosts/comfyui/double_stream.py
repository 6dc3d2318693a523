"""The double-stream block that Flux.1, Flux.2 and Chroma share, and its rotary positions."""

from dataclasses import dataclass

import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, ModulationOut
from einops import einsum, rearrange
from torch import Tensor


def place(heads: Tensor, turns: Tensor) -> Tensor:
    """Queries or keys `b head n d` at their positions; `turns` are 1 1 n d/2 2 2."""
    pairs = rearrange(heads, "b head n (d two) -> b head n d two", two=2).float()
    turned = einsum(turns.to(pairs), pairs, "b one n d i j, b head n d j -> b head n d i")
    return rearrange(turned, "b head n d two -> b head n (d two)").to(heads)


def unplace(heads: Tensor, turns: Tensor) -> Tensor:
    """Queries or keys as they were before positions: a rotation is undone by its transpose."""
    return place(heads, rearrange(turns, "b one n d i j -> b one n d j i"))


@dataclass(frozen=True)
class DoubleStream:
    """The text side of a block."""

    block: DoubleStreamBlock
    before_attention: ModulationOut
    before_mlp: ModulationOut
    turns: Tensor | None = None  # 1 1 t d/2 2 2: where concepts stand; None: at the origin

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

    def place(self, heads: Tensor) -> Tensor:
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
