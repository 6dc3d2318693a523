"""JoyImage-Edit: the picture first, then the pictures to refer to, then the text.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. Text has no positions and there is no pooled vector. Queries are normed and placed in
one stroke; so the image's own are had by turning them back.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid, Time
from .base import Family, Layout, Places
from .positions import unplace
from .reading import read_template

if TYPE_CHECKING:  # ComfyUI has it since 0.29
    from comfy.ldm.joyimage.model import JoyImageTransformer3DModel, JoyImageTransformerBlock


class JoyImage(Family):
    name = "JoyImage"

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, "comfy.ldm.joyimage.model.JoyImageTransformer3DModel")

    def blocks(self, model: "JoyImageTransformer3DModel") -> nn.ModuleList:
        return model.double_blocks

    def grid(self, model: "JoyImageTransformer3DModel", h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size[-1], time=Time(latents))

    def layout(
        self, model: "JoyImageTransformer3DModel", args: dict[str, Any], grid: Grid, ride: Any
    ) -> Layout:
        return Layout(args["img"].shape[1] + args["txt"].shape[1], slice(grid.patches))

    def text_width(self, model: "JoyImageTransformer3DModel") -> int | None:
        return model.condition_embedder.text_embedder.linear_1.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return [own[:, :-1] for own in read_template(clip, words, self.name)]

    def enter(
        self,
        model: "JoyImageTransformer3DModel",
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> "JoyRide":
        txt = args["txt"]
        concepts = model.condition_embedder.text_embedder(rows[None].to(txt))
        positions = rearrange(args["pe"], "b p one d i j -> b one p d i j")
        return JoyRide(model, concepts.expand(len(txt), -1, -1), positions)


@dataclass(frozen=True)
class JoyRide:
    model: "JoyImageTransformer3DModel"
    concepts: Tensor
    positions: Tensor  # 1 1 p d/2 2 2

    def block(self, index: int, vec: Tensor) -> "JoyBlock":
        block = self.model.double_blocks[index]
        return JoyBlock(block, *(rearrange(part, "b d -> b 1 d") for part in block.txt_mod(vec)))

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return unplace(queries, self.positions[:, :, image])


@dataclass(frozen=True)
class JoyBlock:
    """The text side of a block. The modulation is `b 1 d`."""

    block: "JoyImageTransformerBlock"
    shift: Tensor
    scale: Tensor
    gate: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attn
        modulated = torch.addcmul(self.shift, self.block.txt_norm1(concepts), 1 + self.scale)
        q, k, v = rearrange(
            own.txt_attn_qkv(modulated),
            "b t (three head d) -> three b head t d",
            three=3,
            head=own.num_attention_heads,
        )
        return own.txt_attn_q_norm(q), own.txt_attn_k_norm(k), v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.gate * self.block.attn.txt_attn_proj(attended)
        normed = self.block.txt_norm2(concepts)
        modulated = torch.addcmul(self.shift_mlp, normed, 1 + self.scale_mlp)
        return concepts + self.gate_mlp * self.block.txt_mlp(modulated)
