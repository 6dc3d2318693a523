"""OmniGen2: text, pictures to refer to and the picture are one sequence, with weights in common.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken; it stands at the places that they have there. Captions are refined before they meet the
picture; so every concept is refined by itself, as a caption of its own. There is no pooled vector.
"""

from typing import Any, ClassVar

from comfy.ldm.omnigen.omnigen2 import OmniGen2Transformer2DModel
from torch import Tensor, nn

from ....recording import Grid
from ._omnigen_stream import OmniGenBlock, OmniGenRide
from .base import Family, Layout
from .positions import numbered
from .reading import read_template


class OmniGen2(Family):
    name = "OmniGen2"
    arguments: ClassVar = {"img": "hidden_states", "vec": "temb", "pe": "image_rotary_emb"}

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, OmniGen2Transformer2DModel)

    def blocks(self, model: OmniGen2Transformer2DModel) -> nn.ModuleList:
        return model.layers

    def grid(self, model: OmniGen2Transformer2DModel, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size)

    def layout(
        self, model: OmniGen2Transformer2DModel, args: dict[str, Any], grid: Grid, ride: Any
    ) -> Layout:
        """Text, pictures to refer to, and the picture last."""
        length = args["img"].shape[1]
        return Layout(length, slice(length - grid.patches, length))

    def text_width(self, model: OmniGen2Transformer2DModel) -> int | None:
        return model.time_caption_embed.caption_embedder[1].in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return numbered(read_template(clip, words, self.name))

    def enter(
        self,
        model: OmniGen2Transformer2DModel,
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> OmniGenRide:
        return OmniGen2Ride.enter(model, rows, args, conds)


class OmniGen2Ride(OmniGenRide):
    def block(self, index: int, vec: Tensor) -> OmniGenBlock:
        return OmniGenBlock.at(self.model.layers[index], vec, self.turns)
