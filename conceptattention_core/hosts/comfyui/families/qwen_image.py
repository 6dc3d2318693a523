"""Qwen-Image and Qwen-Image-Edit, whose reference pictures stand behind the picture's patches.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken; it stands at the places that they have there. There is no pooled vector.
"""

from typing import Any

from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from einops import rearrange
from torch import Tensor, nn

from ....recording import Grid, Time
from ._qwen_stream import QwenRide
from .base import Family
from .positions import turns_of
from .reading import read_template


class QwenImage(Family):
    name = "Qwen-Image"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, QwenImageTransformer2DModel)

    def blocks(self, model: QwenImageTransformer2DModel) -> nn.ModuleList:
        return model.transformer_blocks

    def grid(self, model: QwenImageTransformer2DModel, h: int, w: int, latents: int = 1) -> Grid:
        layers = Time(latents)  # of Qwen-Image-Layered: pictures behind one another
        return Grid.of_latent(h, w, patch=model.patch_size, time=layers)

    def text_width(self, model: QwenImageTransformer2DModel) -> int | None:
        return model.txt_in.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_template(clip, words, self.name)

    def enter(
        self,
        model: QwenImageTransformer2DModel,
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> QwenRide:
        txt, positions = args["txt"], args["pe"]
        if positions.shape[1] != 1:  # before 0.4 the axis of the heads came third
            positions = rearrange(positions, "b n one d i j -> b one n d i j")
        rows, turns = turns_of(rows, positions, txt.shape[1])
        concepts = model.txt_in(model.txt_norm(rows.to(txt))).expand(len(txt), -1, -1)
        return QwenRide(model, concepts, positions, turns)
