"""ERNIE-Image: picture and text are one sequence, with weights in common, the picture first.

Its attention looks for no other in ComfyUI's place for these, so it is listened to by its
projections. A concept is read by the language model as a prompt is, which has no template; it
stands at the places that it would have there. There is no pooled vector.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from einops import rearrange
from torch import Tensor, nn

from ....attention import ImageVectors
from ....classes import is_a
from ....recording import Grid
from ..override import split_heads
from .base import Family, Layout, Places
from .positions import in_halves, in_pairs, place, turns_of
from .reading import read_template

if TYPE_CHECKING:  # ComfyUI 0.3.64 does not have it
    from comfy.ldm.ernie.model import (
        ErnieImageAttention,
        ErnieImageModel,
        ErnieImageSharedAdaLNBlock,
    )

PIXELS_PER_LATENT = 16


class Ernie(Family):
    name = "ERNIE-Image"
    arguments: ClassVar = {"img": "x", "vec": "temb", "pe": "rotary_pos_emb"}

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, "comfy.ldm.ernie.model.ErnieImageModel")

    def blocks(self, model: "ErnieImageModel") -> nn.ModuleList:
        return model.layers

    def attention(self, block: "ErnieImageSharedAdaLNBlock") -> "ErnieImageAttention":
        return block.self_attention

    def grid(self, model: "ErnieImageModel", h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size, scale=PIXELS_PER_LATENT)

    def told(self, args: dict[str, Any]) -> tuple[Tensor, ...]:
        return tuple(args["vec"])

    def layout(
        self, model: "ErnieImageModel", args: dict[str, Any], grid: Grid, ride: Any
    ) -> Layout:
        return Layout(args["img"].shape[1], slice(grid.patches))

    def text_width(self, model: "ErnieImageModel") -> int | None:
        return None if model.text_proj is None else model.text_proj.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_template(clip, words, self.name)

    def enter(
        self, model: "ErnieImageModel", rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> "ErnieRide":
        img = args["img"]
        positions = rearrange(args["pe"], "b n one d i j -> b one n d i j")
        text = conds["c_crossattn"].shape[1]
        rows, turns = turns_of(rows, positions[:, :, -text:], text)
        concepts = rows[None].to(img)
        if model.text_proj is not None:
            concepts = model.text_proj(concepts)
        return ErnieRide(model, concepts.expand(len(img), -1, -1), positions, turns)


@dataclass(frozen=True)
class ErnieRide:
    model: "ErnieImageModel"
    concepts: Tensor
    positions: Tensor  # b 1 n d/2 2 2, in the order of the joint attention
    turns: Tensor  # 1 1 t d/2 2 2

    def block(self, index: int, vec: tuple[Tensor, ...]) -> "ErnieBlock":
        return ErnieBlock(self.model.layers[index], *vec, turns=self.turns)

    def image(
        self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor, image: Places
    ) -> ImageVectors:
        """Positions stretch as well as turn here, so that nothing could undo them."""
        own, at = self.model.layers[index].self_attention, self.positions[:, :, image]
        queries, keys, values = (split_heads(x, own.heads) for x in (q, k, v))
        return ImageVectors(
            keys=_place(own.norm_k(keys), at),
            values=values,
            outputs=outputs,
            queries_before_rope=lambda: own.norm_q(queries),
            queries=lambda: _place(own.norm_q(queries), at),
        )


@dataclass(frozen=True)
class ErnieBlock:
    """A block, as concepts go through it. The modulation is `b 1 d`."""

    block: "ErnieImageSharedAdaLNBlock"
    shift: Tensor
    scale: Tensor
    gate: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.self_attention
        modulated = self.block.adaLN_sa_ln(concepts) * (1 + self.scale) + self.shift
        q, k, v = (
            split_heads(project(modulated), own.heads) for project in (own.to_q, own.to_k, own.to_v)
        )
        return own.norm_q(q), own.norm_k(k), v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return _place(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.gate * self.block.self_attention.to_out[0](attended)
        modulated = self.block.adaLN_mlp_ln(concepts) * (1 + self.scale_mlp) + self.shift_mlp
        return concepts + self.gate_mlp * self.block.mlp(modulated)


def _place(heads: Tensor, turns: Tensor) -> Tensor:
    return in_halves(place(in_pairs(heads), turns))
