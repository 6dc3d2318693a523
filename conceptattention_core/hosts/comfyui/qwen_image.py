"""Qwen-Image and Qwen-Image-Edit, whose reference pictures stand behind the picture's patches.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken; it stands at the places that they have there. There is no pooled vector.
"""

from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel, QwenImageTransformerBlock
from einops import rearrange
from torch import Tensor, nn

from ...recording import Grid, Time
from .family import Family
from .positions import place, turns_of, unplace
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

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_template(clip, words, self.name)

    def enter(
        self,
        model: QwenImageTransformer2DModel,
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> "QwenRide":
        txt, positions = args["txt"], args["pe"]
        if positions.shape[1] != 1:  # before 0.4 the axis of the heads came third
            positions = rearrange(positions, "b n one d i j -> b one n d i j")
        rows, turns = turns_of(rows, positions, txt.shape[1])
        concepts = model.txt_in(model.txt_norm(rows.to(txt))).expand(len(txt), -1, -1)
        return QwenRide(model, concepts, positions, turns)


@dataclass(frozen=True)
class QwenRide:
    model: QwenImageTransformer2DModel
    concepts: Tensor
    positions: Tensor  # b 1 (t p) d/2 2 2
    turns: Tensor  # 1 1 t d/2 2 2

    def block(self, index: int, vec: Tensor) -> "QwenBlock":
        block = self.model.transformer_blocks[index]
        # with reference pictures a second half follows, for the noise level 0 that they have
        modulation = block.txt_mod(vec[: len(self.concepts)])
        return QwenBlock(
            block, *rearrange(modulation, "b (six d) -> six b 1 d", six=6), turns=self.turns
        )

    def unplaced(self, queries: Tensor, image: slice) -> Tensor:
        return unplace(queries, self.positions[:, :, image])


@dataclass(frozen=True)
class QwenBlock:
    """The text side of a block. The modulation is `b 1 d`."""

    block: QwenImageTransformerBlock
    shift: Tensor
    scale: Tensor
    gate: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attn
        modulated = torch.addcmul(self.shift, self.block.txt_norm1(concepts), 1 + self.scale)
        q, k, v = (
            rearrange(project(modulated), "b t (head d) -> b head t d", head=own.heads)
            for project in (own.add_q_proj, own.add_k_proj, own.add_v_proj)
        )
        return own.norm_added_q(q), own.norm_added_k(k), v

    def place(self, heads: Tensor) -> Tensor:
        return place(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.gate * self.block.attn.to_add_out(attended)
        normed = self.block.txt_norm2(concepts)
        modulated = torch.addcmul(self.shift_mlp, normed, 1 + self.scale_mlp)
        return concepts + self.gate_mlp * self.block.txt_mlp(modulated)
