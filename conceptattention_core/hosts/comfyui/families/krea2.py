"""Krea 2: text and picture are one sequence, with weights in common and a gate on what is attended.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken, in several layers. These are fused to one text, in which all tokens meet; so every
concept is fused by itself, as a text of its own. Text stands at the origin and there is no pooled
vector. Outputs are compared before the gate, which is told by the token that attends, not by what
it attends to.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid
from .base import Family, Layout, Places
from .positions import apart, numbered, unplace
from .reading import read_template

if TYPE_CHECKING:  # ComfyUI has it since 0.26
    from comfy.ldm.krea2.model import SingleStreamBlock, SingleStreamDiT


class Krea2(Family):
    name = "Krea 2"
    arguments: ClassVar = {"img": "x", "vec": "vec", "pe": "freqs"}

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, "comfy.ldm.krea2.model.SingleStreamDiT")

    def blocks(self, model: "SingleStreamDiT") -> nn.ModuleList:
        return model.blocks

    def grid(self, model: "SingleStreamDiT", h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch)

    def layout(
        self, model: "SingleStreamDiT", args: dict[str, Any], grid: Grid, ride: Any
    ) -> Layout:
        length = args["img"].shape[1]
        # before 0.29 nothing stood behind the picture, and its place was not told
        start, _ = args["transformer_options"].get("img_slice", (length - grid.patches, length))
        return Layout(length, slice(start, start + grid.patches))

    def text_width(self, model: "SingleStreamDiT") -> int | None:
        return model.txtlayers * model.txtdim

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        rows = read_template(clip, words, self.name)
        return numbered(own[:, :-1] for own in rows)

    def enter(
        self, model: "SingleStreamDiT", rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> "KreaRide":
        img = args["img"]
        rows, lengths = apart(rows)
        read = rearrange(rows.to(img), "t (layer d) -> 1 t layer d", layer=model.txtlayers)
        fused = [model.txtfusion(own) for own in read.split(lengths, dim=1)]
        concepts = model.txtmlp(torch.cat(fused, dim=1)).expand(len(img), -1, -1)
        return KreaRide(model, concepts, args["pe"])


@dataclass(frozen=True)
class KreaRide:
    model: "SingleStreamDiT"
    concepts: Tensor
    positions: Tensor  # b 1 n d/2 2 2

    def block(self, index: int, vec: Tensor) -> "KreaBlock":
        block = self.model.blocks[index]
        # with reference pictures a second half may follow, for the noise level 0 that they have
        return KreaBlock(block, *block.mod(vec[: len(self.concepts)]))

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return unplace(queries, self.positions[:, :, image])


@dataclass(frozen=True)
class KreaBlock:
    """A block, as concepts go through it. The modulation is `b 1 d`."""

    block: "SingleStreamBlock"
    scale: Tensor
    shift: Tensor
    gate: Tensor
    scale_mlp: Tensor
    shift_mlp: Tensor
    gate_mlp: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own, modulated = self.block.attn, self._modulated(concepts)
        q, k, v = (
            rearrange(project(modulated), "b t (head d) -> b head t d", d=own.headdim)
            for project in (own.wq, own.wk, own.wv)
        )
        q, k = own.qknorm(q, k)
        return q, k, v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        own = self.block.attn
        passed = attended * own.gate(self._modulated(concepts)).sigmoid()
        concepts = concepts + self.gate * own.wo(passed)
        modulated = torch.addcmul(self.shift_mlp, self.block.postnorm(concepts), 1 + self.scale_mlp)
        return concepts + self.gate_mlp * self.block.mlp(modulated)

    def _modulated(self, concepts: Tensor) -> Tensor:
        return torch.addcmul(self.shift, self.block.prenorm(concepts), 1 + self.scale)
