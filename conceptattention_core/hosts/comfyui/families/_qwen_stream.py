"""The block of Qwen-Image that Mage-Flow takes as it is, and Lens with one projection for all."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from .base import Places
from .positions import place, unplace


@dataclass(frozen=True)
class QwenBlock:
    """The text side of a block. The modulation is `b 1 d`."""

    block: Any
    shift: Tensor
    scale: Tensor
    gate: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor | None

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attn
        modulated = torch.addcmul(self.shift, self.block.txt_norm1(concepts), 1 + self.scale)
        q, k, v = (
            rearrange(part, "b t (head d) -> b head t d", head=own.heads)
            for part in self.project(modulated)
        )
        return own.norm_added_q(q), own.norm_added_k(k), v

    def project(self, modulated: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values `b t (head d)`."""
        own = self.block.attn
        return own.add_q_proj(modulated), own.add_k_proj(modulated), own.add_v_proj(modulated)

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads if self.turns is None else place(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.gate * self.block.attn.to_add_out(attended)
        normed = self.block.txt_norm2(concepts)
        modulated = torch.addcmul(self.shift_mlp, normed, 1 + self.scale_mlp)
        return concepts + self.gate_mlp * self.block.txt_mlp(modulated)


@dataclass(frozen=True)
class QwenRide:
    """Concepts on their way through `transformer_blocks`."""

    kind: ClassVar[type[QwenBlock]] = QwenBlock

    model: Any
    concepts: Tensor
    positions: Tensor  # b 1 n d/2 2 2, in the order of the joint attention
    turns: Tensor | None = None
    """The positions `1 1 t d/2 2 2` of the concepts; None at the origin, where they do nothing."""

    def block(self, index: int, vec: Tensor) -> QwenBlock:
        block = self.model.transformer_blocks[index]
        # with reference pictures a second half follows, for the noise level 0 that they have
        modulation = block.txt_mod(vec[: len(self.concepts)])
        return self.kind(
            block, *rearrange(modulation, "b (six d) -> six b 1 d", six=6), turns=self.turns
        )

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return unplace(queries, self.positions[:, :, image])
