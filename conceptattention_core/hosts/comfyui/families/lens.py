"""Lens: Qwen-Image's blocks with one projection for queries, keys and values, the picture first.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken: of each the rows of several layers, one behind the other. It stands at the places that
its tokens have there. There is no pooled vector.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid
from ._qwen_stream import QwenBlock, QwenRide
from .base import Family, Layout
from .positions import turns_of
from .reading import read_template

if TYPE_CHECKING:  # ComfyUI has it since 0.23
    from comfy.ldm.lens.model import LensTransformer2DModel

PIXELS_PER_LATENT = 16


class Lens(Family):
    name = "Lens"

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, "comfy.ldm.lens.model.LensTransformer2DModel")

    def blocks(self, model: "LensTransformer2DModel") -> nn.ModuleList:
        return model.transformer_blocks

    def grid(self, model: "LensTransformer2DModel", h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=1, scale=PIXELS_PER_LATENT)  # latents come packed

    def layout(
        self, model: "LensTransformer2DModel", args: dict[str, Any], grid: Grid, ride: Any
    ) -> Layout:
        return Layout(grid.patches + args["txt"].shape[1], slice(grid.patches))

    def text_width(self, model: "LensTransformer2DModel") -> int | None:
        return model.txt_in.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_template(clip, words, self.name, weighs=False)

    def enter(
        self,
        model: "LensTransformer2DModel",
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> "LensRide":
        txt, positions = args["txt"], args["pe"]
        text = txt.shape[1]
        # an empty prompt has no places: the last patch is the nearest to where text starts
        rows, turns = turns_of(rows, positions[:, :, -max(text, 1) :], text)
        rows = rows.to(txt)
        if model.multi_layer_encoder_feature:
            layers = rearrange(rows, "t (layer n) -> layer t n", layer=len(model.txt_norm))
            normed = [norm(own) for norm, own in zip(model.txt_norm, layers, strict=True)]
            rows = torch.cat(normed, dim=-1)
        else:
            rows = model.txt_norm(rows)
        return LensRide(model, model.txt_in(rows).expand(len(txt), -1, -1), positions, turns)


class LensBlock(QwenBlock):
    def project(self, modulated: Tensor) -> tuple[Tensor, ...]:
        return self.block.attn.txt_qkv(modulated).chunk(3, dim=-1)


class LensRide(QwenRide):
    kind: ClassVar = LensBlock
