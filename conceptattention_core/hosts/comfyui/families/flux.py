"""Flux.1 (dev, schnell and everything fine-tuned from them) as ComfyUI runs it.

A concept is read by T5 alone, padded as a prompt is; its pooled vector is zeros and its position
the origin, where RoPE is the identity (arXiv 2502.04320, section 4 and the authors' defaults).
"""

from typing import Any

import torch
from comfy.ldm.flux.model import Flux as FluxModel
from torch import Tensor, nn

from ....recording import Grid
from ._double_stream import DoubleStreamRide
from .base import Family
from .reading import read_t5


class Flux(Family):
    name = "Flux.1"

    def matches(self, model: nn.Module) -> bool:
        # Flux.2 and LongCat are the same class: they share one modulation or number their text.
        return (
            isinstance(model, FluxModel)
            and not getattr(model.params, "global_modulation", False)
            and not getattr(model.params, "txt_ids_dims", None)
        )

    def blocks(self, model: FluxModel) -> nn.ModuleList:
        return model.double_blocks

    def grid(self, model: FluxModel, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size)

    def text_width(self, model: FluxModel) -> int | None:
        return model.txt_in.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_t5(clip, words, self.name)

    def enter(
        self, model: FluxModel, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> DoubleStreamRide:
        txt, vec = args["txt"], args["vec"]
        concepts = model.txt_in(rows.to(txt)).expand(len(txt), -1, -1)
        pooled = conds.get("y")
        if pooled is not None:  # the same vector, with zeros for the pooled prompt
            pooled = pooled[:, : model.params.vec_in_dim].to(vec)
            vec = vec - model.vector_in(pooled) + model.vector_in(torch.zeros_like(pooled))
        return DoubleStreamRide(model, concepts, args["pe"], vec)
