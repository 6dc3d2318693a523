"""Flux.2 (dev and Klein): Flux's blocks, one modulation for all of them, and a numbered text.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken (arXiv 2502.04320 took one of them). It stands at the places that they have there. There
is no pooled vector.

ComfyUI: `comfy.ldm.flux.model.Flux` with `params.global_modulation`.
"""

from typing import Any

from torch import nn

from ....rotary import Rotary
from ....text_side import ConceptStream
from ....tokens import ConceptTokens
from ._double_stream import double_stream
from .base import BlockCall, Family, ModelCall
from .reading import TemplateReader


class Flux2(Family):
    name = "Flux.2"
    model = "comfy.ldm.flux.model.Flux"
    stack = "double_blocks"
    latent_pixels = 16
    reads = TemplateReader(("mistral3_24b", "qwen3_4b", "qwen3_8b"))

    def matches(self, model: nn.Module) -> bool:
        params = getattr(model, "params", None)
        return super().matches(model) and getattr(params, "global_modulation", False)

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt, sequence = block.stream, Rotary(block.rotary)
        concepts = model.txt_in(tokens.rows.to(txt)).expand(len(txt), -1, -1)
        own = sequence.first.at(tokens.positions(txt.shape[1]))
        return double_stream(model, concepts, sequence, vec=None, own=own)
