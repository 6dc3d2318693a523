"""Krea 2: text and image are one sequence, with weights in common and a gate on what is attended.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken, in several layers. These are fused to one text, in which all tokens meet, whatever the
noise level; so every concept is fused by itself, as a text of its own, once in a run. Text stands
at the origin and there is no pooled vector. Outputs are compared before the gate, which the token
that attends determines, not what it attends to.

ComfyUI: `comfy.ldm.krea2.model.SingleStreamBlock`, since 0.26.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ....recording import Grid
from ....rotary import Rotary
from ....text_side import ConceptStream, Heads, Layer, Modulation, TextSide
from ....tokens import ConceptTokens
from .base import BlockCall, Family, Layout, ModelCall
from .reading import TemplateReader


class Krea2(Family):
    name = "Krea 2"
    model = "comfy.ldm.krea2.model.SingleStreamDiT"
    stack = "blocks"
    reads = TemplateReader(("qwen3vl_4b",))
    hooked = True
    arguments: ClassVar = {"sequence": "x", "modulation": "vec", "rotary": "freqs"}

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch)

    def layout(self, model: Any, block: BlockCall, grid: Grid, stream: ConceptStream) -> Layout:
        # before 0.29 nothing stood behind the image, and its place was not among the options
        last = block.length - grid.patches, block.length
        start, _ = (block.options or {}).get("img_slice", last)
        return Layout(block.length, slice(start, start + grid.patches))

    def text_width(self, model: Any) -> int | None:
        return model.txtlayers * model.txtdim

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        img = block.stream
        rows = rearrange(tokens.rows.to(img), "t (layer d) -> 1 t layer d", layer=model.txtlayers)

        def make() -> Tensor:
            fused = [model.txtfusion(own) for own in rows.split(tokens.counts, dim=1)]
            return model.txtmlp(torch.cat(fused, dim=1))

        concepts = call.once(rows, make).expand(len(img), -1, -1)
        return ConceptStream(
            concepts=concepts,
            # with reference images a second half may follow, for the noise level 0 they have
            text_side=lambda index, vec: text_side(model.blocks[index], vec[: len(concepts)]),
            rotary=Rotary(block.rotary),
        )


def text_side(block: Any, vec: Tensor) -> TextSide:
    own = block.attn

    def project(x: Tensor) -> Heads:
        q, k, v = (
            rearrange(layer(x), "b t (head d) -> b head t d", d=own.headdim)
            for layer in (own.wq, own.wk, own.wv)
        )
        q, k = own.qknorm(q, k)
        return q, k, v

    scale, shift, gate, scale_mlp, shift_mlp, gate_mlp = block.mod(vec)
    return GatedSide(
        norm=block.prenorm, project=project, modulation=Modulation(shift, scale, gate),
        out=own.wo, output_gate=own.gate,
        norm_mlp=block.postnorm, mlp=block.mlp,
        modulation_mlp=Modulation(shift_mlp, scale_mlp, gate_mlp),
    )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class GatedSide(TextSide):
    output_gate: Layer
    """What is attended is multiplied by its sigmoid, taken of the token that attends."""

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        gate = self.output_gate(self.modulation(self.norm(concepts))).sigmoid()
        return super().update(concepts, attended * gate)
