"""Chroma and Chroma Radiance: Flux's blocks, their modulation told from outside.

A concept is read by T5, unpadded as Chroma's prompts are; there is no pooled vector. Its position
is the origin. The modulation of a block's text side depends on the noise level alone.
"""

from typing import Any

from comfy.ldm.chroma.model import Chroma as ChromaModel
from torch import Tensor, nn

from ....recording import Grid
from ._double_stream import DoubleStreamRide
from .base import Family
from .reading import read_t5

PIXEL_PATCH = 16


class Chroma(Family):
    name = "Chroma"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, ChromaModel)

    def blocks(self, model: ChromaModel) -> nn.ModuleList:
        return model.double_blocks

    def grid(self, model: ChromaModel, h: int, w: int, latents: int = 1) -> Grid:
        if model.patch_size >= PIXEL_PATCH:  # Radiance: what is noised is the picture itself
            return Grid.of_latent(h, w, patch=model.patch_size, scale=1)
        return Grid.of_latent(h, w, patch=model.patch_size)

    def text_width(self, model: ChromaModel) -> int | None:
        return model.txt_in.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_t5(clip, words, self.name)

    def enter(
        self, model: ChromaModel, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> DoubleStreamRide:
        txt = args["txt"]
        concepts = model.txt_in(rows.to(txt)).expand(len(txt), -1, -1)
        return DoubleStreamRide(model, concepts, args["pe"], vec=None)
