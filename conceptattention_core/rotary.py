"""Rotary positions (RoPE, arXiv 2104.09864): pairs of channels turned, and turned back."""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rotary:
    """The rotations of the tokens of a sequence."""

    matrices: Tensor
    """`b 1 n d/2 2 2`, one 2 by 2 matrix for each pair of channels; `b` may be 1 for all."""
    halves: bool = False
    """Whether a channel is paired with the one half a head away; else with its neighbour."""

    @classmethod
    def of_tokens_first(cls, matrices: Tensor, halves: bool = False) -> "Rotary":
        """From matrices `b n 1 d/2 2 2`, whose axis of heads comes third."""
        return cls(rearrange(matrices, "b n one d i j -> b one n d i j"), halves)

    @classmethod
    def of_cos_sin(cls, cos: Tensor, sin: Tensor) -> "Rotary":
        """From cosines and sines `n d` in which each number stands twice in a row."""
        cos, sin = cos[:, ::2], sin[:, ::2]
        matrices = torch.stack([cos, -sin, sin, cos], dim=-1)
        return cls(rearrange(matrices, "n d (i j) -> 1 1 n d i j", i=2))

    @property
    def length(self) -> int:
        """How many tokens it is of."""
        return self.matrices.shape[2]

    def at(self, tokens: slice | Tensor) -> "Rotary":
        """That of some of the tokens: a run of them, or each by its number."""
        if not isinstance(tokens, slice):
            tokens = tokens.to(self.matrices.device)
        return Rotary(self.matrices[:, :, tokens], self.halves)

    @property
    def first(self) -> "Rotary":
        """That of the first of a batch, `1 1 n d/2 2 2`."""
        return Rotary(self.matrices[:1], self.halves)

    @property
    def inverse(self) -> "Rotary":
        """A rotation is undone by its transpose."""
        return Rotary(rearrange(self.matrices, "b one n d i j -> b one n d j i"), self.halves)


def apply_rope(heads: Tensor, rotary: Rotary | None) -> Tensor:
    """Queries or keys `b head n d`, rotated in float32; as they are where there is no rotation."""
    if rotary is None:
        return heads
    pairing = "(two d)" if rotary.halves else "(d two)"
    pairs = rearrange(heads, f"b head n {pairing} -> b head n d two", two=2).float()
    rotated = einsum(
        rotary.matrices.to(pairs), pairs, "b one n d i j, b head n d j -> b head n d i"
    )
    return rearrange(rotated, f"b head n d two -> b head n {pairing}").to(heads)


def undo_rope(heads: Tensor, rotary: Rotary | None) -> Tensor:
    """Queries or keys `b head n d` as they were before `apply_rope`."""
    return apply_rope(heads, None if rotary is None else rotary.inverse)
