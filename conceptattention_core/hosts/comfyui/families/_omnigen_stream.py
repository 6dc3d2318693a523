"""The block of one sequence that OmniGen2 and Boogu share, and how concepts come to it.

ComfyUI: `comfy.ldm.omnigen.omnigen2.OmniGen2TransformerBlock`.
"""

from collections.abc import Callable
from typing import Any

from einops import rearrange
from torch import Tensor

from ....attention import JointBlock
from ....rotary import Rotary
from ....text_side import ConceptStream, Heads, TextSide, split_four
from ....tokens import ConceptTokens
from ._refining import refine
from .base import BlockCall, ModelCall

SideOf = Callable[[int, Tensor, Rotary], JointBlock]
"""The text side of a block, by its index, the noise level, and where the concepts stand."""


def omnigen_stream(
    model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall, side_of: SideOf
) -> ConceptStream:
    """Embed concepts and refine each by itself, which does not depend on the noise level."""
    sequence = Rotary.of_tokens_first(block.rotary)
    own = sequence.first.at(tokens.positions(call.text_tokens))

    def make() -> Tensor:
        rows = tokens.rows[None].to(block.stream)
        embedded = model.time_caption_embed.caption_embedder(rows)
        return refine(embedded, tokens, own, model.context_refiner)

    return ConceptStream(
        concepts=call.once(own.matrices, make).expand(len(block.stream), -1, -1),
        text_side=lambda index, vec: side_of(index, vec, own),
        rotary=sequence,
    )


def modulation_of(norm: Any, vec: Tensor) -> Tensor:
    """What a norm makes of the noise level, `b (four d)`: its own scale first."""
    return norm.linear(norm.silu(vec))


def normed_heads(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> Heads:
    """Projected tokens `b t (head d)` as normed queries and keys, and values, `b head t d`."""
    q, k, v = (rearrange(x, "b t (head d) -> b head t d", d=attention.dim_head) for x in (q, k, v))
    return attention.norm_q(q), attention.norm_k(k), v


def text_side(block: Any, vec: Tensor, rotary: Rotary) -> TextSide:
    """A block at a noise level, as concepts go through it."""
    own = block.attn
    modulation, modulation_mlp = split_four(modulation_of(block.norm1, vec))
    return TextSide(
        norm=block.norm1.norm,
        project=lambda x: normed_heads(own, own.to_q(x), own.to_k(x), own.to_v(x)),
        modulation=modulation,
        rotary=rotary,
        out=lambda x: block.norm2(own.to_out[0](x)),
        norm_mlp=block.ffn_norm1,
        mlp=lambda x: block.ffn_norm2(block.feed_forward(x)),
        modulation_mlp=modulation_mlp,
    )
