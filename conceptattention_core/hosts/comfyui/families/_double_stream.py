"""The double-stream block that Flux.1, Flux.2, Chroma, LongCat and Hunyuan share.

ComfyUI: `comfy.ldm.flux.layers.DoubleStreamBlock`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....rotary import Rotary
from ....text_side import ConceptStream, Heads, Modulation, TextSide, split_joined


def double_stream(
    model: Any, concepts: Tensor, sequence: Rotary, vec: Tensor | None, own: Rotary | None = None
) -> ConceptStream:
    """Concepts `b t (head d)` on their way through `double_blocks`, modulated by `vec`, `b d`.

    Where that is None, each block is called with its modulation. `own` are the positions of the
    concepts; None at the origin, where they do nothing.
    """

    def text_side(index: int, modulation: Any) -> TextSide:
        block = model.double_blocks[index]
        return _text_side(block, modulation[1] if vec is None else block.txt_mod(vec), own)

    return ConceptStream(concepts=concepts, text_side=text_side, rotary=sequence)


def _text_side(block: Any, modulation: tuple[Any, Any], rotary: Rotary | None) -> TextSide:
    def project(x: Tensor) -> Heads:
        q, k, v = split_joined(block.txt_attn.qkv(x), block.num_heads)
        return *block.txt_attn.norm(q, k, v), v

    attention, mlp = (Modulation(one.shift, one.scale, one.gate) for one in modulation)
    return DoubleStreamSide(
        norm=block.txt_norm1, project=project, modulation=attention, rotary=rotary,
        out=block.txt_attn.proj,
        norm_mlp=block.txt_norm2, mlp=block.txt_mlp, modulation_mlp=mlp,
    )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class DoubleStreamSide(TextSide):
    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = super().update(concepts, attended)
        if concepts.dtype == torch.float16:  # the block guards its own text stream the same way
            concepts = concepts.nan_to_num(nan=0.0, posinf=65504, neginf=-65504)
        return concepts
