"""Mochi: a narrow text stream beside a wide one of a video, joined as wide as the video's.

A concept is read by T5, padded as a prompt is. What a prompt's words have in common, which Mochi
adds to the noise level, concepts go without. Text has no positions and comes after the video. The
last block has no text side beyond its keys and values, so a concept does not change there.

ComfyUI: `comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmetricJointBlock`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ....recording import FrameLayout, Grid
from ....text_side import (
    ConceptStream,
    KeysOnly,
    Modulation,
    TextSide,
    TokenIndex,
    normed_heads,
    split_four,
)
from ....tokens import ConceptTokens
from .base import FIRST, PATCHED, BlockCall, Family, ModelCall
from .reading import T5Reader

FRAMES_PER_LATENT = 6


class Mochi(Family):
    name = "Mochi"
    model = "comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint"
    stack = "blocks"
    image_at = FIRST
    reads = T5Reader()
    text_width_at = "t5_yproj.in_features"
    arguments: ClassVar = {
        **PATCHED,
        "rotary": ("rope_cos", "rope_sin"),
        "text_length": "num_tokens",
    }

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, model.patch_size, time=FrameLayout(latents, FRAMES_PER_LATENT))

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt = block.stream
        level = F.silu(model.t_embedder(1 - call.timesteps, out_dtype=txt.dtype))
        cos, sin = block.rotary
        return MochiStream(
            concepts=model.t5_yproj(tokens.rows.to(txt)).expand(len(txt), -1, -1),
            text_side=lambda index, _: text_side(model.blocks[index], level),
            cos=cos,
            sin=sin,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class MochiStream(ConceptStream):
    """Each head has rotations of its own."""

    cos: Tensor  # p head d/2
    sin: Tensor

    def queries_before_rope(self, queries: Tensor, patches: TokenIndex) -> Tensor:
        even, odd = rearrange(queries, "b head p (d two) -> two b head p d", two=2)
        cos, sin = (rearrange(x, "p head d -> head p d") for x in (self.cos, self.sin))
        back = torch.stack([even * cos + odd * sin, odd * cos - even * sin], dim=-1)
        return rearrange(back, "b head p d two -> b head p (d two)").to(queries)


def text_side(block: Any, level: Tensor) -> KeysOnly:
    """`level` (b n) is the embedded noise level."""
    own, parts = block.attn, block.mod_y(level)
    project = normed_heads(own.qkv_y, own.q_norm_y, own.k_norm_y, own.num_heads)
    if not block.update_y:
        scale = Modulation(None, rearrange(parts, "b d -> b 1 d"))
        return KeysOnly(norm=_norm, project=project, modulation=scale)
    modulation, modulation_mlp = split_four(parts)
    return TextSide(
        norm=_norm, project=project, modulation=modulation, out=lambda x: _norm(own.proj_y(x)),
        norm_mlp=_norm, mlp=lambda x: _norm(block.mlp_y(x)), modulation_mlp=modulation_mlp,
    )  # fmt: skip


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)
