"""Ideogram 4: text and picture are one sequence, with weights in common.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken: of each the rows of several layers in one. It stands at the places that they have there,
and is marked as text, as all that is no picture. There is no pooled vector. Prompts are JSON for
this model; a concept is plain words all the same, since it is to say what a word means.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid
from .base import Family, Layout, Places
from .positions import in_halves, in_pairs, place, turns_of, unplace
from .reading import read_template

if TYPE_CHECKING:  # ComfyUI 0.3.64 does not have it
    from comfy.ldm.ideogram4.model import Ideogram4Transformer2DModel, Ideogram4TransformerBlock

PIXELS_PER_LATENT = 16
TEXT = 0  # what its tokens are marked as


class Ideogram4(Family):
    name = "Ideogram 4"
    arguments: ClassVar = {"img": "x", "vec": "adaln_input", "pe": "freqs_cis"}

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, "comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel")

    def blocks(self, model: "Ideogram4Transformer2DModel") -> nn.ModuleList:
        return model.layers

    def grid(self, model: "Ideogram4Transformer2DModel", h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=1, scale=PIXELS_PER_LATENT)  # latents come packed

    def layout(
        self, model: "Ideogram4Transformer2DModel", args: dict[str, Any], grid: Grid, ride: Any
    ) -> Layout:
        length = args["img"].shape[1]
        if length == grid.patches:  # the unconditional pass has no text, so nothing joint
            return Layout(0, slice(0))
        return Layout(length, slice(length - grid.patches, length))

    def text_width(self, model: "Ideogram4Transformer2DModel") -> int | None:
        return model.llm_cond_proj.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_template(clip, words, self.name)

    def enter(
        self,
        model: "Ideogram4Transformer2DModel",
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> "IdeogramRide":
        img = args["img"]
        positions = rearrange(args["pe"], "b n one d i j -> b one n d i j")
        rows, turns = turns_of(rows, positions, conds["c_crossattn"].shape[1])
        mark = torch.full((1,), TEXT, device=img.device)
        concepts = model.llm_cond_proj(model.llm_cond_norm(rows[None].to(img)))
        concepts = concepts + model.embed_image_indicator(mark, out_dtype=img.dtype)
        return IdeogramRide(model, concepts.expand(len(img), -1, -1), positions, turns)


@dataclass(frozen=True)
class IdeogramRide:
    model: "Ideogram4Transformer2DModel"
    concepts: Tensor
    positions: Tensor  # 1 1 n d/2 2 2
    turns: Tensor  # 1 1 t d/2 2 2

    def block(self, index: int, vec: Tensor) -> "IdeogramBlock":
        block = self.model.layers[index]
        modulation = rearrange(block.adaln_modulation(vec), "b 1 (four d) -> four b 1 d", four=4)
        return IdeogramBlock(block, *modulation, turns=self.turns)

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return in_halves(unplace(in_pairs(queries), self.positions[:, :, image]))


@dataclass(frozen=True)
class IdeogramBlock:
    """A block, as concepts go through it. The modulation is `b 1 d`."""

    block: "Ideogram4TransformerBlock"
    scale: Tensor
    gate: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attention
        q, k, v = rearrange(
            own.qkv(self.block.attention_norm1(concepts) * (1 + self.scale)),
            "b t (three head d) -> three b head t d",
            three=3,
            head=own.num_heads,
        )
        return own.norm_q(q), own.norm_k(k), v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return in_halves(place(in_pairs(heads), self.turns))

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        attended = self.block.attention_norm2(self.block.attention.o(attended))
        concepts = concepts + self.gate.tanh() * attended
        modulated = self.block.ffn_norm1(concepts) * (1 + self.scale_mlp)
        hidden = self.block.ffn_norm2(self.block.feed_forward(modulated))
        return concepts + self.gate_mlp.tanh() * hidden
