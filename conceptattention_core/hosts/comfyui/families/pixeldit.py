"""PixelDiT and PiD, the decoder made from it: pictures of pixels instead of latents.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. It stands at the places that they have there: by rotation in every block, and by what
the model learned to add to a text before block 0. There is no pooled vector. The blocks on pixels
behind those on patches see no text.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid
from .base import Family, Places
from .positions import place, places_of, turns_of, unplace
from .reading import read_template

if TYPE_CHECKING:  # ComfyUI 0.3.64 does not have it
    from comfy.ldm.pixeldit.model import MMDiTBlockT2I, PixDiT_T2I


class PixelDiT(Family):
    name = "PixelDiT"
    arguments: ClassVar = {
        "img": "x",
        "txt": "y",
        "vec": "c",
        "pe": "pos_img",
        "text_pe": "pos_txt",
    }

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, "comfy.ldm.pixeldit.model.PixDiT_T2I")

    def blocks(self, model: "PixDiT_T2I") -> nn.ModuleList:
        return model.patch_blocks

    def grid(self, model: "PixDiT_T2I", h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size, scale=1)

    def text_width(self, model: "PixDiT_T2I") -> int | None:
        return model.txt_embed_dim

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_template(clip, words, self.name)

    def enter(
        self, model: "PixDiT_T2I", rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> "PixelRide":
        txt = args["txt"]
        _, places = places_of(rows, txt.shape[1])
        rows, turns = turns_of(rows, args["text_pe"][None, None], txt.shape[1])
        learned = model.y_pos_embedding.to(txt)[:, places]
        concepts = model.y_embedder(rows[None].to(txt)) + learned
        return PixelRide(model, concepts.expand(len(txt), -1, -1), args["pe"][None, None], turns)


@dataclass(frozen=True)
class PixelRide:
    model: "PixDiT_T2I"
    concepts: Tensor
    positions: Tensor  # 1 1 p d/2 2 2
    turns: Tensor  # 1 1 t d/2 2 2

    def block(self, index: int, vec: Tensor) -> "PixelBlock":
        block = self.model.patch_blocks[index]
        modulation = rearrange(block.adaLN_modulation_txt(vec), "b 1 (six d) -> six b 1 d", six=6)
        return PixelBlock(block, *modulation, turns=self.turns)

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return unplace(queries, self.positions)


@dataclass(frozen=True)
class PixelBlock:
    """The text side of a block. The modulation is `b 1 d`."""

    block: "MMDiTBlockT2I"
    shift: Tensor
    scale: Tensor
    gate: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attn
        modulated = torch.addcmul(self.shift, self.block.norm_y1(concepts), 1 + self.scale)
        q, k, v = rearrange(
            own.qkv_y(modulated),
            "b t (three head d) -> three b head t d",
            three=3,
            head=own.num_heads,
        )
        return own.q_norm_y(q), own.k_norm_y(k), v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return place(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.gate * self.block.attn.proj_y(attended)
        normed = self.block.norm_y2(concepts)
        modulated = torch.addcmul(self.shift_mlp, normed, 1 + self.scale_mlp)
        return concepts + self.gate_mlp * self.block.mlp_y(modulated)
