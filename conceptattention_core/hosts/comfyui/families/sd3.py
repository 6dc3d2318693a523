"""Stable Diffusion 3 and 3.5 (medium with its second, image-only attention; large).

A concept is read by the two CLIPs, as in the authors' code (arXiv 2502.04320), but alone and with
all its tokens; where only T5 is loaded, by T5. Its pooled vector is zeros. Text has no positions.
The last block has no text side beyond its keys and values, so a concept does not change there.
"""

from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.mmdit import DismantledBlock, MMDiT
from einops import rearrange
from torch import Tensor, nn

from ....recording import Grid
from ..encoder import expect_rows
from .base import Family, Places
from .reading import T5, T5_END, count_until, encode_one, expect, tokenize

CLIP = "g"
CLIP_END = 49407
CLIP_LENGTH = 77


class SD3(Family):
    name = "SD3"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, MMDiT) and model.context_processor is None

    def blocks(self, model: MMDiT) -> nn.ModuleList:
        return model.joint_blocks

    def grid(self, model: MMDiT, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size)

    def text_width(self, model: MMDiT) -> int | None:
        return model.context_embedder.in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        tokens = tokenize(clip, words)
        expect(CLIP, tokens, clip, self.name)
        return [self._read(clip, one) for one in tokens]

    def _read(self, clip: Any, tokens: dict[str, Any]) -> Tensor:
        rows = encode_one(clip, tokens)
        # CLIP's rows are narrower than T5's and end in zeros; without CLIP, T5's come first
        if rows[:CLIP_LENGTH, -1].any():
            expect(T5, [tokens], clip, self.name)
            expect_rows(rows, (len(tokens[T5][0]),), T5, clip, self.name)
            return rows[: count_until(tokens[T5][0], T5_END)]
        of_clip = CLIP_LENGTH * len(tokens[CLIP])
        of_t5 = sum(map(len, tokens.get(T5, ())))
        expect_rows(rows, (of_clip + of_t5, of_clip), CLIP, clip, self.name)
        return rows[1 : 1 + count_until(tokens[CLIP][0], CLIP_END, start=1)]

    def enter(
        self, model: MMDiT, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> "SD3Ride":
        txt, vec = args["txt"], args["vec"]
        concepts = model.context_embedder(rows.to(txt)).expand(len(txt), -1, -1)
        pooled = conds.get("y")
        if pooled is not None and model.y_embedder is not None:
            pooled = pooled.to(vec)
            vec = vec - model.y_embedder(pooled) + model.y_embedder(torch.zeros_like(pooled))
        return SD3Ride(model, concepts, vec)


@dataclass(frozen=True)
class SD3Ride:
    model: MMDiT
    concepts: Tensor
    vec: Tensor

    def block(self, index: int, vec: Any) -> "SD3Block":
        block = self.model.joint_blocks[index].context_block
        parts = 2 if block.pre_only else 6
        modulation = rearrange(
            block.adaLN_modulation(self.vec), "b (part d) -> part b d", part=parts
        )
        return SD3Block(block, *modulation)

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return queries


@dataclass(frozen=True)
class SD3Block:
    """The text side of a block. The modulation is `b d`."""

    block: DismantledBlock
    shift: Tensor
    scale: Tensor
    gate: Tensor | None = None
    shift_mlp: Tensor | None = None
    scale_mlp: Tensor | None = None
    gate_mlp: Tensor | None = None

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.block.norm1(concepts)
        modulated = torch.addcmul(self.shift[:, None], normed, 1 + self.scale[:, None])
        q, k, v = self.block.attn.pre_attention(modulated)
        head = self.block.attn.num_heads
        q, k = (rearrange(x, "b t (head d) -> b head t d", head=head) for x in (q, k))
        return q, k, rearrange(v, "b t head d -> b head t d")

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        if self.gate is None:
            return concepts
        return self.block.post_attention(
            attended, concepts, self.gate, self.shift_mlp, self.scale_mlp, self.gate_mlp
        )
