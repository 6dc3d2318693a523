"""Flux.1 (dev, schnell and everything fine-tuned from them) as ComfyUI runs it.

A concept is read by T5 alone, padded as a prompt is; its pooled vector is zeros and its position
the origin, where RoPE is the identity (arXiv 2502.04320, section 4 and the authors' defaults).
"""

from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, ModulationOut
from comfy.ldm.flux.model import Flux as FluxModel
from einops import einsum, rearrange
from torch import Tensor, nn

from ... import ConceptAttentionError
from ...recording import Grid

T5 = "t5xxl"
T5_END = 1


class Flux:
    name = "Flux.1"

    def matches(self, model: nn.Module) -> bool:
        # Flux.2 and LongCat are the same class: they share one modulation or number their text.
        return (
            isinstance(model, FluxModel)
            and not getattr(model.params, "global_modulation", False)
            and not getattr(model.params, "txt_ids_dims", None)
        )

    def depth(self, model: FluxModel) -> int:
        return len(model.double_blocks)

    def grid(self, model: FluxModel, h: int, w: int) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size)

    def embed(self, clip: Any, words: list[str]) -> list[Tensor]:
        tokens = [clip.tokenize(_literal(text)) for text in words]
        if T5 not in tokens[0]:
            raise ConceptAttentionError(
                f"Flux.1 reads concepts with T5; this CLIP has {', '.join(tokens[0])}. "
                "Connect the CLIP that encodes the prompt."
            )
        batch = [one[T5][0] for one in tokens]
        lengths = {len(ids) for ids in batch}
        if len(lengths) == 1:  # one call of the text encoder for all
            encoded = clip.encode_from_tokens({**tokens[0], T5: batch}, return_dict=True)["cond"]
            rows = rearrange(encoded, "1 (c n) d -> c n d", c=len(words))
        else:
            rows = [clip.encode_from_tokens(one, return_dict=True)["cond"][0] for one in tokens]
        return [row[: _own_length(ids)] for row, ids in zip(rows, batch, strict=True)]

    def enter(
        self, model: FluxModel, rows: Tensor, args: dict[str, Any], conds: dict[str, Any]
    ) -> "FluxRide":
        txt, vec = args["txt"], args["vec"]
        concepts = model.txt_in(rows.to(txt)).expand(len(txt), -1, -1)
        pooled = conds.get("y")
        if pooled is not None:  # the same vector, with zeros for the pooled prompt
            pooled = pooled[:, : model.params.vec_in_dim].to(vec)
            vec = vec - model.vector_in(pooled) + model.vector_in(torch.zeros_like(pooled))
        return FluxRide(model, concepts, vec, args["pe"])


@dataclass(frozen=True)
class FluxRide:
    model: FluxModel
    concepts: Tensor
    vec: Tensor
    positions: Tensor  # b 1 (t p) d/2 2 2

    def block(self, index: int) -> "FluxBlock":
        block = self.model.double_blocks[index]
        return FluxBlock(block, *block.txt_mod(self.vec))

    def unplaced(self, queries: Tensor, image: slice) -> Tensor:
        # a rotation is undone by its transpose
        pairs = rearrange(queries, "b head p (d two) -> b head p d two", two=2).float()
        turns = self.positions[:, :, image]
        turned = einsum(turns, pairs, "b one p d i j, b head p d i -> b head p d j")
        return rearrange(turned, "b head p d two -> b head p (d two)").to(queries)


@dataclass(frozen=True)
class FluxBlock:
    block: DoubleStreamBlock
    before_attention: ModulationOut
    before_mlp: ModulationOut

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        modulated = _modulate(self.block.txt_norm1(concepts), self.before_attention)
        q, k, v = rearrange(
            self.block.txt_attn.qkv(modulated),
            "b t (three head d) -> three b head t d",
            three=3,
            head=self.block.num_heads,
        )
        q, k = self.block.txt_attn.norm(q, k, v)
        return q, k, v

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        concepts = concepts + self.before_attention.gate * self.block.txt_attn.proj(attended)
        modulated = _modulate(self.block.txt_norm2(concepts), self.before_mlp)
        concepts = concepts + self.before_mlp.gate * self.block.txt_mlp(modulated)
        if concepts.dtype == torch.float16:  # the block guards its own text stream the same way
            concepts = concepts.nan_to_num(nan=0.0, posinf=65504, neginf=-65504)
        return concepts


def _modulate(normed: Tensor, by: ModulationOut) -> Tensor:
    return torch.addcmul(by.shift, normed, 1 + by.scale)


def _own_length(ids: list[tuple]) -> int:
    """How many tokens stand before the end token; an embedding's tokens are vectors."""
    ends = (i for i, (token, *_) in enumerate(ids) if isinstance(token, int) and token == T5_END)
    return next(ends, len(ids))


def _literal(words: str) -> str:
    """Keep the tokenizer from reading `(word:1.2)` in a concept as a weight."""
    return words.replace("(", r"\(").replace(")", r"\)")
