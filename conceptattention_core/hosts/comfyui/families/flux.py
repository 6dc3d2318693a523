"""Flux.1 (dev, schnell and everything fine-tuned from them).

A concept is read by T5 alone, padded as a prompt is; its pooled vector is zeros and its position
the origin, where RoPE is the identity (arXiv 2502.04320, section 4 and the authors' defaults).

ComfyUI: `comfy.ldm.flux.model.Flux.forward_orig`.
"""

from typing import Any

import torch
from torch import nn

from ....rotary import Rotary
from ....text_side import ConceptStream
from ....tokens import ConceptTokens
from ._double_stream import double_stream
from .base import BlockCall, Family, ModelCall
from .reading import T5Reader


class Flux(Family):
    name = "Flux.1"
    model = "comfy.ldm.flux.model.Flux"
    stack = "double_blocks"
    reads = T5Reader()

    def matches(self, model: nn.Module) -> bool:
        # Flux.2 and LongCat are the same class: they share one modulation or number their text.
        params = getattr(model, "params", None)
        shared = getattr(params, "global_modulation", False)
        return super().matches(model) and not shared and not getattr(params, "txt_ids_dims", None)

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt, vec = block.stream, block.modulation
        concepts = model.txt_in(tokens.rows.to(txt)).expand(len(txt), -1, -1)
        if call.pooled is not None:  # the same vector, with zeros for the pooled prompt
            pooled = call.pooled[:, : model.params.vec_in_dim].to(vec)
            vec = vec - model.vector_in(pooled) + model.vector_in(torch.zeros_like(pooled))
        return double_stream(model, concepts, Rotary(block.rotary), vec)
