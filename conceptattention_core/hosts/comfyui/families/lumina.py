"""Lumina 2 (and NewBie) and Z-Image: text and picture are one sequence, with weights in common.

A concept is read by the language model inside the template of a prompt, if there is one, from
which its own tokens are taken; it stands at the places that they have there. Captions are refined
before they meet the picture; so every concept is refined by itself, as a caption of its own. The
pooled vector that NewBie has is zeros.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from comfy.ldm.lumina.model import JointTransformerBlock, NextDiT
from einops import rearrange
from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid
from ._refining import refine
from .base import Family, Layout, Places
from .positions import apart, numbered, place, turns_of, unplace
from .reading import read_template

LANGUAGE_MODELS = ("gemma",)  # NewBie has a second encoder, for its pooled vector


class Lumina2(Family):
    name = "Lumina 2"
    arguments: ClassVar = {
        "img": "x",
        "vec": "adaln_input",
        "pe": "freqs_cis",
        "current": "timestep_zero_index",
    }

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, NextDiT) and _multiple(model) == 1

    def blocks(self, model: NextDiT) -> nn.ModuleList:
        return model.layers

    def grid(self, model: NextDiT, h: int, w: int, latents: int = 1) -> Grid:
        of_pixels = is_a(model, "comfy.ldm.lumina.model.NextDiTPixelSpace")
        return Grid.of_latent(h, w, patch=model.patch_size, scale=1 if of_pixels else 8)

    def layout(self, model: NextDiT, args: dict[str, Any], grid: Grid, ride: Any) -> Layout:
        """Captions, pictures to refer to, and the picture, filled up with pads."""
        length, multiple = args["img"].shape[1], _multiple(model)
        start = length - -(-grid.patches // multiple) * multiple
        return Layout(length, slice(start, start + grid.patches))

    def text_width(self, model: NextDiT) -> int | None:
        return model.cap_embedder[1].in_features

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        return numbered(read_template(clip, words, self.name, LANGUAGE_MODELS))

    def enter(
        self, model: NextDiT, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> "LuminaRide":
        img = args["img"]
        positions = rearrange(args["pe"], "b n one d i j -> b one n d i j")
        # with pictures to refer to, the picture and its caption are told from theirs
        caption = args["current"][1][0] if args.get("current") else 0
        rows, lengths = apart(rows)
        rows, turns = turns_of(rows, positions[:, :, caption:], conds["num_tokens"])
        embedded = model.cap_embedder(rows[None].to(img))
        refined = refine(embedded, lengths, turns, model.context_refiner)
        concepts = refined.expand(len(img), -1, -1)
        vec = None
        if getattr(model, "clip_text_pooled_proj", None) is not None:
            time = (1 - conds["timesteps"]) * model.time_scale
            pooled = model.clip_text_pooled_proj(img.new_zeros(len(img), model.clip_text_dim))
            vec = torch.cat([model.t_embedder(time, dtype=img.dtype), pooled], dim=-1)
            vec = model.time_text_embed(vec)
        return LuminaRide(model, concepts, positions, turns, vec)


class ZImage(Lumina2):
    name = "Z-Image"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, NextDiT) and _multiple(model) > 1


def _multiple(model: NextDiT) -> int:
    """What the length of a caption and of a picture is a multiple of, by pads."""
    return getattr(model, "pad_tokens_multiple", None) or 1


@dataclass(frozen=True)
class LuminaRide:
    model: NextDiT
    concepts: Tensor
    positions: Tensor  # b 1 n d/2 2 2
    turns: Tensor  # 1 1 t d/2 2 2
    vec: Tensor | None
    """What modulates the concepts; None where it is what modulates the picture."""

    def block(self, index: int, vec: Tensor) -> "LuminaBlock":
        # pictures to refer to have the noise level 0, and their half comes first
        own = vec[-len(self.concepts) :] if self.vec is None else self.vec
        block = self.model.layers[index]
        modulation = rearrange(block.adaLN_modulation(own), "b (four d) -> four b 1 d", four=4)
        return LuminaBlock(block, *modulation, turns=self.turns)

    def unplaced(self, queries: Tensor, image: Places) -> Tensor:
        return unplace(queries, self.positions[:, :, image])


@dataclass(frozen=True)
class LuminaBlock:
    """A block, as concepts go through it. The modulation is `b 1 d`."""

    block: JointTransformerBlock
    scale: Tensor
    gate: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor
    turns: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.block.attention
        modulated = self.block.attention_norm1(concepts) * (1 + self.scale)
        heads = rearrange(own.qkv(modulated), "b t (head d) -> b head t d", d=own.head_dim)
        q, k, v = heads.split([own.n_local_heads, own.n_kv_heads, own.n_kv_heads], dim=1)
        return own.q_norm(q), own.k_norm(k), v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return place(heads, self.turns)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        attended = self.block.attention_norm2(_finite(self.block.attention.out(attended)))
        concepts = concepts + self.gate.tanh() * attended
        modulated = self.block.ffn_norm1(concepts) * (1 + self.scale_mlp)
        hidden = self.block.ffn_norm2(_finite(self.block.feed_forward(modulated)))
        return concepts + self.gate_mlp.tanh() * hidden


def _finite(x: Tensor) -> Tensor:
    """Float16 that overflowed, guarded as the block guards its own."""
    return x.nan_to_num(nan=0.0, posinf=65504, neginf=-65504) if x.dtype == torch.float16 else x
