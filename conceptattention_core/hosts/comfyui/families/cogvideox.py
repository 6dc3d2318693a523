"""CogVideoX (2b, 5b and 1.5): one set of weights for both streams, modulated apart.

A concept is read by T5 alone, padded as a prompt is (arXiv 2502.04320, section 5.4). Text has no
positions and there is no pooled vector.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid, Time
from .base import Family, Places
from .positions import turns_of_waves, unplace
from .reading import read_t5

if TYPE_CHECKING:  # ComfyUI has it since 0.21
    from comfy.ldm.cogvideo.model import CogVideoXBlock, CogVideoXTransformer3DModel

PACE = 4


class CogVideoX(Family):
    name = "CogVideoX"
    arguments: ClassVar = {
        "img": "hidden_states",
        "txt": "encoder_hidden_states",
        "vec": "temb",
        "pe": "image_rotary_emb",
    }

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, "comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel")

    def blocks(self, model: "CogVideoXTransformer3DModel") -> nn.ModuleList:
        return model.blocks

    def grid(self, model: "CogVideoXTransformer3DModel", h: int, w: int, latents: int = 1) -> Grid:
        time = Time(latents, PACE, patch=model.patch_size_t or 1)
        return Grid.of_latent(h, w, model.patch_size, time=time)

    def text_width(self, model: "CogVideoXTransformer3DModel") -> int | None:
        return model.patch_embed.text_proj.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_t5(clip, words, self.name)

    def enter(
        self,
        model: "CogVideoXTransformer3DModel",
        rows: Tensor,
        args: dict[str, Any],
        conds: dict[str, Any],
    ) -> "CogRide":
        txt = args["txt"]
        project = model.patch_embed.text_proj
        concepts = project(rows.to(project.weight.dtype)).to(txt)
        waves = args["pe"]
        turns = None if waves is None else turns_of_waves(*waves)
        return CogRide(model, concepts.expand(len(txt), -1, -1), turns)


@dataclass(frozen=True)
class CogRide:
    model: "CogVideoXTransformer3DModel"
    concepts: Tensor
    turns: Tensor | None
    """The positions `1 1 p d/2 2 2` of patches; None where they were added before block 0."""

    def block(self, index: int, vec: Tensor) -> "CogBlock":
        return CogBlock(self.model.blocks[index], vec)

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return queries if self.turns is None else unplace(queries, self.turns)


@dataclass(frozen=True)
class CogBlock:
    """The text side of a block, modulated by `vec`, `b n`."""

    block: "CogVideoXBlock"
    vec: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        modulated, _ = self._modulated(self.block.norm1, concepts)
        q, k, v = (
            rearrange(project(modulated), "b t (head d) -> b head t d", head=self.block.num_heads)
            for project in (self.block.q, self.block.k, self.block.v)
        )
        return self.block.norm_q(q), self.block.norm_k(k), v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        _, gate = self._modulated(self.block.norm1, concepts)
        concepts = concepts + gate * self.block.attn_out(attended)
        modulated, gate = self._modulated(self.block.norm2, concepts)
        hidden = F.gelu(self.block.ff_proj(modulated), approximate="tanh")
        return concepts + gate * self.block.ff_out(hidden)

    def _modulated(self, norm: Any, concepts: Tensor) -> tuple[Tensor, Tensor]:
        """The concepts, normed and modulated, and the gate of what comes of them."""
        shift, scale, gate = rearrange(
            norm.linear(norm.silu(self.vec)), "b (six d) -> six b 1 d", six=6
        )[3:]
        return torch.addcmul(shift, norm.norm(concepts), 1 + scale), gate
