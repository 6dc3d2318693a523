"""Chroma and Chroma Radiance: Flux's blocks, each called with its modulation.

A concept is read by T5, unpadded as Chroma's prompts are; there is no pooled vector. Its position
is the origin. The modulation of a block's text side depends on the noise level alone.

ComfyUI: `comfy.ldm.chroma.model.Chroma`, `comfy.ldm.chroma_radiance.model.ChromaRadiance`.
"""

from typing import Any

from ....recording import Grid
from ....rotary import Rotary
from ....text_side import ConceptStream
from ....tokens import ConceptTokens
from ._double_stream import double_stream
from .base import BlockCall, Family, ModelCall
from .reading import T5Reader

PIXEL_PATCH = 16


class Chroma(Family):
    name = "Chroma"
    model = "comfy.ldm.chroma.model.Chroma"
    stack = "double_blocks"
    reads = T5Reader()

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        # Radiance: what is noised is the image itself
        scale = 1 if model.patch_size >= PIXEL_PATCH else self.latent_pixels
        return Grid.of_latent(h, w, patch=model.patch_size, scale=scale)

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt = block.stream
        concepts = model.txt_in(tokens.rows.to(txt)).expand(len(txt), -1, -1)
        return double_stream(model, concepts, Rotary(block.rotary), vec=None)
