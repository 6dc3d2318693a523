"""Mochi: a narrow text stream beside a wide one of a video, joined as wide as the video's.

A concept is read by T5, padded as a prompt is. What a prompt's words have in common, which Mochi
adds to the noise level, concepts go without. Text has no positions and comes after the video. The
last block has no text side beyond its keys and values, so a concept does not change there.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint, AsymmetricJointBlock
from einops import rearrange
from torch import Tensor, nn

from ....recording import Grid, Time
from .base import Family, Layout, Places
from .reading import read_t5

PACE = 6


class Mochi(Family):
    name = "Mochi"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, AsymmDiTJoint)

    def blocks(self, model: AsymmDiTJoint) -> nn.ModuleList:
        return model.blocks

    def grid(self, model: AsymmDiTJoint, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, model.patch_size, time=Time(latents, PACE))

    def layout(self, model: AsymmDiTJoint, args: dict[str, Any], grid: Grid, ride: Any) -> Layout:
        image = args["img"].shape[1]
        return Layout(image + min(args["txt"].shape[1], args["num_tokens"]), slice(grid.patches))

    def text_width(self, model: AsymmDiTJoint) -> int | None:
        return model.t5_yproj.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return read_t5(clip, words, self.name)

    def enter(
        self, model: AsymmDiTJoint, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> "MochiRide":
        txt = args["txt"]
        concepts = model.t5_yproj(rows.to(txt)).expand(len(txt), -1, -1)
        level = model.t_embedder(1 - conds["timesteps"], out_dtype=txt.dtype)
        return MochiRide(model, concepts, F.silu(level), args["rope_cos"], args["rope_sin"])


@dataclass(frozen=True)
class MochiRide:
    model: AsymmDiTJoint
    concepts: Tensor
    level: Tensor  # b n
    cosine: Tensor  # p head d/2, of each head's own turns
    sine: Tensor

    def block(self, index: int, vec: Any) -> "MochiBlock":
        block = self.model.blocks[index]
        parts = 4 if block.update_y else 1
        modulation = rearrange(block.mod_y(self.level), "b (part d) -> part b 1 d", part=parts)
        return MochiBlock(block, *modulation)

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        even, odd = rearrange(queries, "b head p (d two) -> two b head p d", two=2)
        cosine, sine = (rearrange(x, "p head d -> head p d") for x in (self.cosine, self.sine))
        back = torch.stack([even * cosine + odd * sine, odd * cosine - even * sine], dim=-1)
        return rearrange(back, "b head p d two -> b head p (d two)").to(queries)


@dataclass(frozen=True)
class MochiBlock:
    """The text side of a block. The modulation is `b 1 d`."""

    block: AsymmetricJointBlock
    scale: Tensor
    gate: Tensor | None = None
    scale_mlp: Tensor | None = None
    gate_mlp: Tensor | None = None

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attn
        q, k, v = rearrange(
            own.qkv_y(_norm(concepts) * (1 + self.scale)),
            "b t (three head d) -> three b head t d",
            three=3,
            head=own.num_heads,
        )
        return own.q_norm_y(q), own.k_norm_y(k), v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        if self.gate is None or self.scale_mlp is None or self.gate_mlp is None:
            return concepts
        concepts = concepts + _norm(self.block.attn.proj_y(attended)) * self.gate.tanh()
        hidden = self.block.mlp_y(_norm(concepts) * (1 + self.scale_mlp))
        return concepts + _norm(hidden) * self.gate_mlp.tanh()


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)
