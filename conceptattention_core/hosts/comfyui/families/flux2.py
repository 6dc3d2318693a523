"""Flux.2 (dev and Klein): Flux's blocks, one modulation for all of them, and a numbered text.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken (arXiv 2502.04320 took one of them). It stands at the places that they have there. There
is no pooled vector.
"""

from typing import Any

from comfy.ldm.flux.model import Flux as FluxModel
from torch import Tensor, nn

from ....recording import Grid
from ._double_stream import DoubleStreamRide
from .base import Family
from .positions import turns_of
from .reading import read_template

PIXELS_PER_LATENT = 16


class Flux2(Family):
    name = "Flux.2"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, FluxModel) and getattr(model.params, "global_modulation", False)

    def blocks(self, model: FluxModel) -> nn.ModuleList:
        return model.double_blocks

    def grid(self, model: FluxModel, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size, scale=PIXELS_PER_LATENT)

    def text_width(self, model: FluxModel) -> int | None:
        return model.txt_in.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_template(clip, words, self.name)

    def enter(
        self, model: FluxModel, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> DoubleStreamRide:
        txt, positions = args["txt"], args["pe"]
        rows, turns = turns_of(rows, positions, txt.shape[1])
        concepts = model.txt_in(rows.to(txt)).expand(len(txt), -1, -1)
        return DoubleStreamRide(model, concepts, positions, vec=None, turns=turns)
