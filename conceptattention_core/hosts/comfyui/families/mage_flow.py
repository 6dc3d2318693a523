"""Mage-Flow and its edits: Qwen-Image's blocks over patches of one latent cell.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. Text has no positions here, and there is no pooled vector. Reference pictures stand
behind the picture's patches.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid
from ._qwen_stream import QwenRide
from .base import Family
from .reading import read_template

if TYPE_CHECKING:  # ComfyUI has it since 0.29
    from comfy.ldm.mage_flow.model import MageFlowTransformer2DModel

PIXELS_PER_LATENT = 16


class MageFlow(Family):
    name = "Mage-Flow"

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, "comfy.ldm.mage_flow.model.MageFlowTransformer2DModel")

    def blocks(self, model: "MageFlowTransformer2DModel") -> nn.ModuleList:
        return model.transformer_blocks

    def grid(self, model: "MageFlowTransformer2DModel", h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size, scale=PIXELS_PER_LATENT)

    def text_width(self, model: "MageFlowTransformer2DModel") -> int | None:
        return model.txt_in.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return [own[:, :-1] for own in read_template(clip, words, self.name)]

    def enter(
        self,
        model: "MageFlowTransformer2DModel",
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> QwenRide:
        txt = args["txt"]
        concepts = model.txt_in(model.txt_norm(rows.to(txt))).expand(len(txt), -1, -1)
        return QwenRide(model, concepts, args["pe"])
