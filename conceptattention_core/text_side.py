"""The text side of a joint-attention block as nearly all models have it, lent to the concepts.

Norm, modulation, attention, gate; then the same around the MLP (adaLN, arXiv 2212.09748). A family
names the parts of its block; what is done with them stands here, once. Where a model has no shift,
norms what comes out or bounds its gates, the family says so in these parts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .attention import JointBlock
from .rotary import Rotary, apply_rope, undo_rope

Layer = Callable[[Tensor], Tensor]
Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, `b head n d`."""
TokenIndex = slice | Tensor
"""Which tokens of a sequence: a run of them, or each by its number."""


@dataclass(frozen=True, eq=False)
class Modulation:
    """What the noise level makes of a norm's output and of what is added to it, all `b 1 d`."""

    shift: Tensor | None
    """Added to what is normed; None where a model only scales."""
    scale: Tensor
    """What is normed is multiplied by 1 + scale."""
    gate: Tensor | None = None
    """What is added to the stream is multiplied by it; None where nothing is added."""
    fused: bool = True
    """Whether the model scales and shifts in one operation (`torch.addcmul`): rounding differs."""

    def __call__(self, normed: Tensor) -> Tensor:
        if self.shift is None:
            return normed * (1 + self.scale)
        if self.fused:
            return torch.addcmul(self.shift, normed, 1 + self.scale)
        return normed * (1 + self.scale) + self.shift

    def gated(self, x: Tensor) -> Tensor:
        return x if self.gate is None else self.gate * x


def split_six(parts: Tensor, fused: bool = True) -> tuple[Modulation, Modulation]:
    """Shift, scale, gate of the attention, then of the MLP, from `b (six d)` or `b 1 (six d)`."""
    six = rearrange(parts, "b ... (six d) -> six b (...) d", six=6)
    return Modulation(*six[:3], fused=fused), Modulation(*six[3:], fused=fused)


def split_four(parts: Tensor) -> tuple[Modulation, Modulation]:
    """Scale and gate of the attention, then of the MLP, from `b (four d)` or `b 1 (four d)`.

    Such blocks have no shift, and their gates are bounded by tanh.
    """
    scale, gate, scale_mlp, gate_mlp = rearrange(parts, "b ... (four d) -> four b (...) d", four=4)
    return Modulation(None, scale, gate.tanh()), Modulation(None, scale_mlp, gate_mlp.tanh())


@dataclass(frozen=True, eq=False, kw_only=True)
class KeysOnly:
    """A `JointBlock` whose text side ends with its heads, as a model's last one may."""

    norm: Layer
    """Before the attention, `b t d`."""
    project: Callable[[Tensor], Heads]
    """Heads `b head t d` before positions, of what is normed and modulated, `b t d`."""
    modulation: Modulation
    """Around the attention."""
    rotary: Rotary | None = None
    """Where the concepts stand, `1 1 t d/2 2 2`; None: text has no positions, or the origin."""

    def heads(self, concepts: Tensor) -> Heads:
        return self.project(self.modulation(self.norm(concepts)))

    def apply_rope(self, heads: Tensor) -> Tensor:
        return apply_rope(heads, self.rotary)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        return concepts


@dataclass(frozen=True, eq=False, kw_only=True)
class TextSide(KeysOnly):
    """A `JointBlock` made of a block's parts."""

    out: Layer
    """The projection of what is attended, `b t (head d)`, and what else it passes."""
    norm_mlp: Layer
    mlp: Layer
    modulation_mlp: Modulation
    """Around the MLP."""

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.modulation.gated(self.out(attended))
        hidden = self.mlp(self.modulation_mlp(self.norm_mlp(concepts)))
        return concepts + self.modulation_mlp.gated(hidden)


def split_heads(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Heads:
    """Three projections `b n (head d)` in their heads."""
    q, k, v = (rearrange(x, "b n (head d) -> b head n d", head=heads) for x in (q, k, v))
    return q, k, v


def split_joined(qkv: Tensor, heads: int) -> Heads:
    """One projection `b n (three head d)` in its heads."""
    q, k, v = rearrange(qkv, "b n (three head d) -> three b head n d", three=3, head=heads)
    return q, k, v


def normed_heads(qkv: Layer, norm_q: Layer, norm_k: Layer, heads: int) -> Callable[[Tensor], Heads]:
    """What projects to heads by one layer, and norms queries and keys head by head."""

    def project(x: Tensor) -> Heads:
        q, k, v = split_joined(qkv(x), heads)
        return norm_q(q), norm_k(k), v

    return project


@dataclass(frozen=True, eq=False, kw_only=True)
class ConceptStream:
    """Concepts as they start in one call of a model, and what takes them through its blocks."""

    concepts: Tensor
    """The stream before block 0, `b t (head d)`."""
    text_side: Callable[[int, Any], JointBlock]
    """The text side of a block, by its index and by what the block is modulated with."""
    rotary: Rotary | None = None
    """Of the joint sequence, `b 1 n d/2 2 2`; None where queries have no positions."""
    of_patches: bool = False
    """Whether `rotary` is of the patches alone."""

    def queries_before_rope(self, queries: Tensor, patches: TokenIndex) -> Tensor:
        """Image queries `b head p d` as they were before positions; they stand at `patches`."""
        if self.rotary is None or self.of_patches:
            return undo_rope(queries, self.rotary)
        return undo_rope(queries, self.rotary.at(patches))
