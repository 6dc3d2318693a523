"""LongCat-Image and Ovis-Image: Flux's blocks over the words of a language model.

Their text is numbered along both axes of the image. A concept is read inside the template of a
prompt and stands at the places that its own tokens have there. There is no pooled vector.

ComfyUI: `comfy.ldm.flux.model.Flux` with `params.txt_ids_dims`.
"""

from typing import Any

from torch import nn

from ....rotary import Rotary
from ....text_side import ConceptStream
from ....tokens import ConceptTokens
from ._double_stream import double_stream
from .base import BlockCall, Family, ModelCall
from .reading import TemplateReader


class LongCat(Family):
    name = "LongCat and Ovis"
    model = "comfy.ldm.flux.model.Flux"
    stack = "double_blocks"
    reads = TemplateReader(("qwen25_7b", "qwen3_2b"))

    def matches(self, model: nn.Module) -> bool:
        params = getattr(model, "params", None)
        shared = getattr(params, "global_modulation", False)
        numbered = bool(getattr(params, "txt_ids_dims", None))
        return super().matches(model) and not shared and numbered

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt, sequence = block.stream, Rotary(block.rotary)
        rows = tokens.rows.to(txt)
        if model.txt_norm is not None:
            rows = model.txt_norm(rows)
        concepts = model.txt_in(rows).expand(len(txt), -1, -1)
        own = sequence.first.at(tokens.positions(txt.shape[1]))
        return double_stream(model, concepts, sequence, block.modulation, own)
