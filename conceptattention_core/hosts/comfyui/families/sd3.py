"""Stable Diffusion 3 and 3.5 (medium with its second, image-only attention; large).

A concept is read by the two CLIPs, as in the authors' code (arXiv 2502.04320), but alone and with
all its tokens; where only T5 is loaded, by T5. Its pooled vector is zeros. Text has no positions.
The last block has no text side beyond its keys and values, so a concept does not change there.

ComfyUI: `comfy.ldm.modules.diffusionmodules.mmdit.MMDiT`, a block's text side `DismantledBlock`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ....text_side import ConceptStream, Heads, KeysOnly, Modulation, TextSide, split_six
from ....tokens import ConceptTokens
from ..encoder import expect_rows
from .base import BlockCall, Family, ModelCall
from .reading import T5, T5_END, count_until, encode_one, expect, tokenize

CLIP = "g"
CLIP_END = 49407
CLIP_LENGTH = 77


@dataclass(frozen=True)
class ClipOrT5Reader:
    def read(self, clip: Any, words: list[str], family: str) -> list[ConceptTokens]:
        tokens = tokenize(clip, words)
        expect(CLIP, tokens, clip, family)
        return [ConceptTokens.of(self._read(clip, one, family)) for one in tokens]

    def _read(self, clip: Any, tokens: dict[str, Any], family: str) -> Tensor:
        rows = encode_one(clip, tokens)
        # CLIP's rows are narrower than T5's and end in zeros; without CLIP, T5's come first
        if rows[:CLIP_LENGTH, -1].any():
            expect(T5, [tokens], clip, family)
            expect_rows(rows, (len(tokens[T5][0]),), T5, clip, family)
            return rows[: count_until(tokens[T5][0], T5_END)]
        of_clip = CLIP_LENGTH * len(tokens[CLIP])
        of_t5 = sum(map(len, tokens.get(T5, ())))
        expect_rows(rows, (of_clip + of_t5, of_clip), CLIP, clip, family)
        return rows[1 : 1 + count_until(tokens[CLIP][0], CLIP_END, start=1)]


class SD3(Family):
    name = "SD3"
    model = "comfy.ldm.modules.diffusionmodules.mmdit.MMDiT"
    stack = "joint_blocks"
    reads = ClipOrT5Reader()
    text_width_at = "context_embedder.in_features"

    def matches(self, model: nn.Module) -> bool:
        return super().matches(model) and getattr(model, "context_processor", None) is None

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt, vec = block.stream, block.modulation
        if call.pooled is not None and model.y_embedder is not None:
            pooled = call.pooled.to(vec)
            vec = vec - model.y_embedder(pooled) + model.y_embedder(torch.zeros_like(pooled))
        return ConceptStream(
            concepts=model.context_embedder(tokens.rows.to(txt)).expand(len(txt), -1, -1),
            text_side=lambda index, _: text_side(model.joint_blocks[index].context_block, vec),
        )


def text_side(block: Any, vec: Tensor) -> KeysOnly:
    own, parts = block.attn, block.adaLN_modulation(vec)

    def project(x: Tensor) -> Heads:
        q, k, v = own.pre_attention(x)
        q, k = (rearrange(x, "b t (head d) -> b head t d", head=own.num_heads) for x in (q, k))
        return q, k, rearrange(v, "b t head d -> b head t d")

    if block.pre_only:
        shift, scale = rearrange(parts, "b (two d) -> two b 1 d", two=2)
        return KeysOnly(norm=block.norm1, project=project, modulation=Modulation(shift, scale))
    modulation, modulation_mlp = split_six(parts)
    return TextSide(
        norm=block.norm1, project=project, modulation=modulation, out=own.post_attention,
        norm_mlp=block.norm2, mlp=block.mlp, modulation_mlp=modulation_mlp,
    )  # fmt: skip
