"""AuraFlow: four joint blocks before many single ones.

A concept is read by the Pile's T5, padded as a prompt is. The eight registers that stand before a
prompt are no words, so concepts have none. Text has no positions and there is no pooled vector.
"""

from dataclasses import dataclass
from typing import Any

from comfy.ldm.aura.mmdit import MMDiT, MMDiTBlock
from einops import rearrange
from torch import Tensor, nn

from ....recording import Grid
from .base import Family, Places
from .reading import read_t5

T5, T5_END = "pile_t5xl", 2


class AuraFlow(Family):
    name = "AuraFlow"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, MMDiT)

    def blocks(self, model: MMDiT) -> nn.ModuleList:
        return model.double_layers

    def grid(self, model: MMDiT, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size)

    def text_width(self, model: MMDiT) -> int | None:
        return model.cond_seq_linear.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_t5(clip, words, self.name, T5, T5_END)

    def enter(
        self, model: MMDiT, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> "AuraRide":
        txt = args["txt"]
        return AuraRide(model, model.cond_seq_linear(rows.to(txt)).expand(len(txt), -1, -1))


@dataclass(frozen=True)
class AuraRide:
    model: MMDiT
    concepts: Tensor

    def block(self, index: int, vec: Tensor) -> "AuraBlock":
        block = self.model.double_layers[index]
        return AuraBlock(block, *rearrange(block.modC(vec), "b (six d) -> six b 1 d", six=6))

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return queries


@dataclass(frozen=True)
class AuraBlock:
    """The text side of a block. The modulation is `b 1 d`."""

    block: MMDiTBlock
    shift: Tensor
    scale: Tensor
    gate: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attn
        modulated = self.block.normC1(concepts) * (1 + self.scale) + self.shift
        q, k, v = (
            rearrange(project(modulated), "b t (head d) -> b t head d", head=own.n_heads)
            for project in (own.w1q, own.w1k, own.w1v)
        )
        q, k = own.q_norm1(q), own.k_norm1(k)
        q, k, v = (rearrange(x, "b t head d -> b head t d") for x in (q, k, v))
        return q, k, v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        normed = self.block.normC2(concepts + self.gate * self.block.attn.w1o(attended))
        modulated = normed * (1 + self.scale_mlp) + self.shift_mlp
        return concepts + self.gate_mlp * self.block.mlpC(modulated)
