"""AuraFlow: four joint blocks before many single ones.

A concept is read by the Pile's T5, padded as a prompt is. The eight registers that stand before a
prompt are no words, so concepts have none. Text has no positions and there is no pooled vector.
ComfyUI: `comfy.ldm.aura.mmdit.MMDiTBlock`.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ....text_side import ConceptStream, Heads, TextSide, split_six
from ....tokens import ConceptTokens
from .base import BlockCall, Family, ModelCall
from .reading import T5Reader


class AuraFlow(Family):
    name = "AuraFlow"
    model = "comfy.ldm.aura.mmdit.MMDiT"
    stack = "double_layers"
    reads = T5Reader("pile_t5xl", end=2)
    text_width_at = "cond_seq_linear.in_features"

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt = block.stream
        return ConceptStream(
            concepts=model.cond_seq_linear(tokens.rows.to(txt)).expand(len(txt), -1, -1),
            text_side=lambda index, vec: text_side(model.double_layers[index], vec),
        )


def text_side(block: Any, vec: Tensor) -> TextSide:
    own = block.attn

    def project(x: Tensor) -> Heads:
        layers = zip((own.w1q, own.w1k, own.w1v), (own.q_norm1, own.k_norm1, nn.Identity()))
        q, k, v = (  # normed over heads and channels, so before the heads come first
            norm(to(x).unflatten(-1, (own.n_heads, -1))).transpose(1, 2) for to, norm in layers
        )
        return q, k, v

    modulation, modulation_mlp = split_six(block.modC(vec), fused=False)
    return PostNormSide(
        norm=block.normC1, project=project, modulation=modulation, out=own.w1o,
        norm_mlp=block.normC2, mlp=block.mlpC, modulation_mlp=modulation_mlp,
    )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class PostNormSide(TextSide):
    """The MLP adds to the stream from before the attention."""

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        normed = self.norm_mlp(concepts + self.modulation.gated(self.out(attended)))
        return concepts + self.modulation_mlp.gated(self.mlp(self.modulation_mlp(normed)))
