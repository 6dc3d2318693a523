"""The block of Qwen-Image that Mage-Flow takes as it is, and Lens with one projection for all.

ComfyUI: `comfy.ldm.qwen_image.model.QwenImageTransformerBlock`.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ....rotary import Rotary
from ....text_side import ConceptStream, Heads, TextSide, split_heads, split_six


def three_projections(attention: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values `b t (head d)`."""
    return attention.add_q_proj(x), attention.add_k_proj(x), attention.add_v_proj(x)


def qwen_stream(
    model: Any,
    concepts: Tensor,
    sequence: Rotary,
    own: Rotary | None = None,
    projections: Callable[[Any, Tensor], tuple[Tensor, ...]] = three_projections,
) -> ConceptStream:
    """Concepts `b t (head d)` on their way through `transformer_blocks`.

    `own` are their positions; None at the origin, where they do nothing.
    """

    def text_side(index: int, vec: Tensor) -> TextSide:
        block = model.transformer_blocks[index]
        attention = block.attn

        def project(x: Tensor) -> Heads:
            q, k, v = split_heads(*projections(attention, x), heads=attention.heads)
            return attention.norm_added_q(q), attention.norm_added_k(k), v

        # with reference images a second half follows, for the noise level 0 that they have
        modulation, modulation_mlp = split_six(block.txt_mod(vec[: len(concepts)]))
        return TextSide(
            norm=block.txt_norm1, project=project, modulation=modulation, rotary=own,
            out=attention.to_add_out,
            norm_mlp=block.txt_norm2, mlp=block.txt_mlp, modulation_mlp=modulation_mlp,
        )  # fmt: skip

    return ConceptStream(concepts=concepts, text_side=text_side, rotary=sequence)
