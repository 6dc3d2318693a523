"""The joint block that most families share: projections for the image, others for the text."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from ....attention import ImageVectors
from ....text_side import Heads, Layer, Modulation, TextSide, split_heads, split_six
from .base import Rope, no_rope


@dataclass(frozen=True, eq=False, kw_only=True)
class JointTextSide(TextSide):
    """A text side as diffusers' blocks have it: float16 is bounded, and a model rotates its way."""

    rope: Rope = no_rope
    """Puts the concepts at their positions."""

    def apply_rope(self, heads: Tensor) -> Tensor:
        return self.rope(heads)

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = super().update(concepts, attended)
        return concepts.clip(-65504, 65504) if concepts.dtype == torch.float16 else concepts


def joint_text_side(
    block: Any,
    modulations: tuple[Modulation, Modulation],
    norm: Layer,
    norm_mlp: Layer,
    mlp: Layer,
    rope: Rope = no_rope,
) -> JointTextSide:
    """That of a block with an `Attention` of diffusers, which has the text's projections, too."""
    attention, of_mlp = modulations
    return JointTextSide(
        norm=norm,
        project=partial(text_heads, block.attn),
        modulation=attention,
        out=block.attn.to_add_out,
        norm_mlp=norm_mlp,
        mlp=mlp,
        modulation_mlp=of_mlp,
        rope=rope,
    )


def text_side(block: Any, temb: Tensor) -> JointTextSide:
    """That of a block whose first norm makes the modulation of all that follows
    (`AdaLayerNormZero` in diffusers/models/normalization.py), from `temb`, `b n`.
    """
    norm = block.norm1_context
    modulations = split_six(norm.linear(norm.silu(temb)), fused=False)
    return joint_text_side(block, modulations, norm.norm, block.norm2_context, block.ff_context)


def text_heads(attention: Any, modulated: Tensor) -> Heads:
    """Queries, keys, values `b head t d` of the text side, before positions."""
    if attention.fused_projections:
        q, k, v = attention.to_added_qkv(modulated).chunk(3, dim=-1)
    else:
        layers = (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
        q, k, v = (layer(modulated) for layer in layers)
    q, k, v = split_heads(q, k, v, attention.heads)
    return normed(attention.norm_added_q, q), normed(attention.norm_added_k, k), v


def image_vectors(
    attention: Any, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor, rope: Rope
) -> ImageVectors:
    """The image side, from what its projections gave, all `b p (head d)`."""
    q, k, v = split_heads(q, k, v, attention.heads)
    return ImageVectors(
        keys=rope(normed(attention.norm_k, k)),
        values=v,
        outputs=outputs,
        queries_before_rope=lambda: normed(attention.norm_q, q),
        queries=lambda: rope(normed(attention.norm_q, q)),
    )


def normed(norm: Any, heads: Tensor) -> Tensor:
    """Some models go without norms."""
    return heads if norm is None else norm(heads)


def rope_of(cos: Tensor, sin: Tensor) -> Rope:
    """diffusers' rotation of the first tokens of a sequence, by cosines and sines `n d`."""
    rotate: Any = apply_rotary_emb  # annotated too narrowly
    return lambda heads: rotate(heads, (cos[: heads.shape[2]], sin[: heads.shape[2]]))
