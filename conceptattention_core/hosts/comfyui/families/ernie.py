"""ERNIE-Image: image and text are one sequence, with weights in common, the image first.

Its attention does not look for another in ComfyUI's place for these, so it is recorded by its
projections. A concept is read by the language model as a prompt is, which has no template; it
stands at the places that it would have there. There is no pooled vector.

ComfyUI: `comfy.ldm.ernie.model.ErnieImageSharedAdaLNBlock`.
"""

from typing import Any, ClassVar

from torch import Tensor

from ....attention import ImageVectors
from ....rotary import Rotary, apply_rope
from ....text_side import ConceptStream, Heads, Modulation, TextSide, TokenIndex, split_heads
from ....tokens import ConceptTokens
from .base import FIRST, BlockCall, Family, ModelCall
from .reading import TemplateReader


class Ernie(Family):
    name = "ERNIE-Image"
    model = "comfy.ldm.ernie.model.ErnieImageModel"
    stack = "layers"
    latent_pixels = 16
    image_at = FIRST
    reads = TemplateReader(("ministral3_3b",))
    text_width_at = "text_proj.in_features"
    hooked = True
    arguments: ClassVar = {"sequence": "x", "modulation": "temb", "rotary": "rotary_pos_emb"}

    def attention(self, block: Any) -> Any:
        return block.self_attention

    def modulation(self, block: BlockCall) -> tuple[Tensor, ...]:
        return tuple(block.modulation)  # a list, of shifts, scales and gates

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        sequence = Rotary.of_tokens_first(block.rotary, halves=True)
        assert call.text is not None
        text = call.text.shape[1]  # padding included, at the end of the sequence
        own = sequence.first.at(slice(-text, None)).at(tokens.positions(text))
        concepts = tokens.rows[None].to(block.stream)
        if model.text_proj is not None:
            concepts = model.text_proj(concepts)
        return ConceptStream(
            concepts=concepts.expand(len(block.stream), -1, -1),
            text_side=lambda index, vec: text_side(model.layers[index], vec, own),
            rotary=sequence,
        )

    def image(
        self,
        model: Any,
        index: int,
        stream: ConceptStream,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        outputs: Tensor,
        patches: TokenIndex,
    ) -> ImageVectors:
        """Positions stretch as well as turn here, so that nothing could undo them."""
        own = model.layers[index].self_attention
        rotary = None if stream.rotary is None else stream.rotary.at(patches)
        queries, keys, values = split_heads(q, k, v, own.heads)
        return ImageVectors(
            keys=apply_rope(own.norm_k(keys), rotary),
            values=values,
            outputs=outputs,
            queries_before_rope=lambda: own.norm_q(queries),
            queries=lambda: apply_rope(own.norm_q(queries), rotary),
        )


def text_side(block: Any, modulation: tuple[Tensor, ...], rotary: Rotary) -> TextSide:
    own = block.self_attention

    def project(x: Tensor) -> Heads:
        q, k, v = split_heads(own.to_q(x), own.to_k(x), own.to_v(x), own.heads)
        return own.norm_q(q), own.norm_k(k), v

    return TextSide(
        norm=block.adaLN_sa_ln, project=project, rotary=rotary, out=own.to_out[0],
        modulation=Modulation(*modulation[:3], fused=False),
        norm_mlp=block.adaLN_mlp_ln, mlp=block.mlp,
        modulation_mlp=Modulation(*modulation[3:], fused=False),
    )  # fmt: skip
