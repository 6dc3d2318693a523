"""LongCat-Image and Ovis-Image: Flux's blocks over the words of a language model.

Their text is numbered along both axes of the picture. A concept is read inside the template of a
prompt and stands at the places that its own tokens have there. There is no pooled vector.
"""

from typing import Any

from comfy.ldm.flux.model import Flux as FluxModel
from torch import Tensor, nn

from ....recording import Grid
from ._double_stream import DoubleStreamRide
from .base import Family
from .positions import turns_of
from .reading import read_template


class LongCat(Family):
    name = "LongCat and Ovis"

    def matches(self, model: nn.Module) -> bool:
        return (
            isinstance(model, FluxModel)
            and not getattr(model.params, "global_modulation", False)
            and bool(getattr(model.params, "txt_ids_dims", None))
        )

    def blocks(self, model: FluxModel) -> nn.ModuleList:
        return model.double_blocks

    def grid(self, model: FluxModel, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size)

    def text_width(self, model: FluxModel) -> int | None:
        return model.txt_in.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_template(clip, words, self.name)

    def enter(
        self, model: FluxModel, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> DoubleStreamRide:
        txt, positions = args["txt"], args["pe"]
        rows, turns = turns_of(rows, positions, txt.shape[1])
        rows = rows.to(txt)
        if model.txt_norm is not None:
            rows = model.txt_norm(rows)
        concepts = model.txt_in(rows).expand(len(txt), -1, -1)
        return DoubleStreamRide(model, concepts, positions, args["vec"], turns)
