"""Boogu: blocks of two streams, then blocks of one sequence, as OmniGen2's are.

Concepts pass through both kinds, for text and image attend to each other in either; the first
number the blocks first. A concept is read by the language model inside the template of a prompt,
from which its own tokens are taken; it stands at the places that they have there. Captions are
refined before they meet the image; so every concept is refined by itself, as a caption of its own.
There is no pooled vector. The image's attention to itself, beside the joint one in blocks of two
streams, has no text and is not compared.

ComfyUI: `comfy.ldm.boogu.model.BooguTransformer2DModel`, its block `BooguDoubleStreamBlock`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor, nn

from ....attention import JointBlock
from ....rotary import Rotary
from ....text_side import ConceptStream, Heads, Modulation, TextSide
from ....tokens import ConceptTokens
from ._omnigen_stream import modulation_of, normed_heads, omnigen_stream, text_side
from .base import LAST, BlockCall, Family, ModelCall
from .reading import TemplateReader


class Boogu(Family):
    name = "Boogu"
    model = "comfy.ldm.boogu.model.BooguTransformer2DModel"
    image_at = LAST
    reads = TemplateReader(("qwen3vl_8b",))
    text_width_at = "time_caption_embed.caption_embedder.1.in_features"
    hooked = True
    arguments: ClassVar = {
        "image": "img_hidden_states",
        "text": "instruct_hidden_states",
        "sequence": "hidden_states",  # in blocks of one sequence
        "rotary": "joint_rotary_emb",
        "modulation": "temb",
    }

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        return [*model.double_stream_layers, *model.single_stream_layers]

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        of_two_streams = len(model.double_stream_layers)

        def side(index: int, vec: Tensor, rotary: Rotary) -> JointBlock:
            own: Any = self.blocks(model)[index]
            kind = double_text_side if index < of_two_streams else text_side
            return kind(own, vec, rotary)

        return omnigen_stream(model, tokens, block, call, side)


def double_text_side(block: Any, vec: Tensor, rotary: Rotary) -> "BooguSide":
    """A block of two streams at a noise level, as concepts go through it."""
    own = block.img_instruct_attn
    layers = own.processor

    def project(x: Tensor) -> Heads:
        return normed_heads(
            own, layers.instruct_to_q(x), layers.instruct_to_k(x), layers.instruct_to_v(x)
        )

    def four(norm: Any) -> Tensor:
        return rearrange(modulation_of(norm, vec), "b (four d) -> four b 1 d", four=4)

    scale, gate, scale_mlp, gate_mlp = four(block.instruct_norm1)
    # of the second norm the block uses the first two parts, the gate as a shift
    scale_before, shift_mlp, _, _ = four(block.instruct_norm2)
    return BooguSide(
        norm=block.instruct_norm1.norm, project=project, rotary=rotary,
        modulation=Modulation(None, scale, gate.tanh()),
        out=lambda x: block.instruct_attn_norm(own.to_out[0](layers.instruct_out(x))),
        norm_mlp=block.instruct_norm2.norm, modulation_before=Modulation(None, scale_before),
        mlp=lambda x: block.instruct_ffn_norm2(
            block.instruct_feed_forward(block.instruct_ffn_norm1(x))
        ),
        modulation_mlp=Modulation(shift_mlp, scale_mlp, gate_mlp.tanh()),
    )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class BooguSide(TextSide):
    modulation_before: Modulation
    """Scales what is normed before the MLP, ahead of its own modulation."""

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        # what goes into the MLP is the stream from before the attention
        before = self.modulation_before(self.norm_mlp(concepts))
        hidden = self.mlp(self.modulation_mlp(before))
        concepts = concepts + self.modulation.gated(self.out(attended))
        return concepts + self.modulation_mlp.gated(hidden)
