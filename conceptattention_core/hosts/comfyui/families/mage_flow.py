"""Mage-Flow and its edits: Qwen-Image's blocks over patches of one latent cell.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. Text has no positions here, and there is no pooled vector. Reference images stand
behind the image's patches.

ComfyUI: `comfy.ldm.mage_flow.model.MageFlowTransformer2DModel`, since 0.29.
"""

from typing import Any

from ....rotary import Rotary
from ....text_side import ConceptStream
from ....tokens import ConceptTokens
from ._qwen_stream import qwen_stream
from .base import BlockCall, Family, ModelCall
from .reading import TemplateReader


class MageFlow(Family):
    name = "Mage-Flow"
    model = "comfy.ldm.mage_flow.model.MageFlowTransformer2DModel"
    stack = "transformer_blocks"
    latent_pixels = 16
    reads = TemplateReader(("qwen3vl_4b",))

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt = block.stream
        rows = model.txt_norm(tokens.rows.to(txt))
        concepts = model.txt_in(rows).expand(len(txt), -1, -1)
        return qwen_stream(model, concepts, Rotary(block.rotary))
