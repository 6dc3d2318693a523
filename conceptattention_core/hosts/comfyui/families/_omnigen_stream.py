"""The block of one sequence that OmniGen2 and Boogu share, and how concepts come to it."""

from dataclasses import dataclass
from typing import Any

from comfy.ldm.omnigen.omnigen2 import LuminaRMSNormZero, OmniGen2TransformerBlock
from einops import rearrange
from torch import Tensor

from ....attention import JointBlock
from ._refining import refine
from .base import Places
from .positions import apart, place, turns_of, unplace


@dataclass(frozen=True)
class OmniGenRide:
    """Concepts on their way through blocks, less which blocks those are."""

    model: Any
    concepts: Tensor
    positions: Tensor  # b 1 n d/2 2 2, in the order of the joint attention
    turns: Tensor  # 1 1 t d/2 2 2

    @classmethod
    def enter(
        cls, model: Any, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> "OmniGenRide":
        """Embed concepts and refine each by itself."""
        img = args["img"]
        positions = rearrange(args["pe"], "b n one d i j -> b one n d i j")
        rows, lengths = apart(rows)
        rows, turns = turns_of(rows, positions, conds["num_tokens"])
        embedded = model.time_caption_embed.caption_embedder(rows[None].to(img))
        refined = refine(embedded, lengths, turns, model.context_refiner)
        return cls(model, refined.expand(len(img), -1, -1), positions, turns)

    def block(self, index: int, vec: Tensor) -> JointBlock:
        raise NotImplementedError

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return unplace(queries, self.positions[:, :, image])


def modulate(norm: LuminaRMSNormZero, vec: Tensor) -> Tensor:
    """What a norm that is told the noise level scales by, and its other three, `four b 1 d`."""
    return rearrange(norm.linear(norm.silu(vec)), "b (four d) -> four b 1 d", four=4)


def text_heads(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Projected tokens `b t (head d)` as normed queries and keys, and values, `b head t d`."""
    q, k, v = (rearrange(x, "b t (head d) -> b head t d", d=attention.dim_head) for x in (q, k, v))
    return attention.norm_q(q), attention.norm_k(k), v


@dataclass(frozen=True)
class OmniGenBlock:
    """A block, as concepts go through it. The modulation is `b 1 d`."""

    block: OmniGen2TransformerBlock
    scale: Tensor
    gate: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor

    @classmethod
    def at(cls, block: OmniGen2TransformerBlock, vec: Tensor, turns: Tensor) -> "OmniGenBlock":
        """The block at a noise level."""
        return cls(block, *modulate(block.norm1, vec), turns=turns)

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attn
        modulated = self.block.norm1.norm(concepts) * (1 + self.scale)
        return text_heads(own, own.to_q(modulated), own.to_k(modulated), own.to_v(modulated))

    def apply_rope(self, heads: Tensor) -> Tensor:
        return place(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        attended = self.block.norm2(self.block.attn.to_out[0](attended))
        concepts = concepts + self.gate.tanh() * attended
        modulated = self.block.ffn_norm1(concepts) * (1 + self.scale_mlp)
        hidden = self.block.ffn_norm2(self.block.feed_forward(modulated))
        return concepts + self.gate_mlp.tanh() * hidden
