"""Ideogram 4: text and image are one sequence, with weights in common.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken: of each the rows of several layers in one. It stands at the places that they have there,
and is marked as text, as all that is no image. There is no pooled vector. Prompts are JSON for
this model; a concept is plain words all the same, since it is to say what a word means.

ComfyUI: `comfy.ldm.ideogram4.model.Ideogram4TransformerBlock`.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ....recording import Grid
from ....rotary import Rotary
from ....text_side import ConceptStream, TextSide, normed_heads, split_four
from ....tokens import ConceptTokens
from .base import LAST, BlockCall, Family, Layout, ModelCall
from .reading import TemplateReader

TEXT = 0  # what its tokens are marked as


class Ideogram4(Family):
    name = "Ideogram 4"
    model = "comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel"
    stack = "layers"
    latent_pixels = 16
    image_at = LAST
    reads = TemplateReader(("qwen3vl_8b",))
    text_width_at = "llm_cond_proj.in_features"
    hooked = True
    arguments: ClassVar = {"sequence": "x", "modulation": "adaln_input", "rotary": "freqs_cis"}

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=1, scale=self.latent_pixels)  # latents come packed

    def layout(self, model: Any, block: BlockCall, grid: Grid, stream: ConceptStream) -> Layout:
        if block.length == grid.patches:  # the unconditional pass has no text, so nothing joint
            return Layout(0, slice(0))
        return super().layout(model, block, grid, stream)

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        img, sequence = block.stream, Rotary.of_tokens_first(block.rotary, halves=True)
        assert call.text is not None
        own = sequence.first.at(tokens.positions(call.text.shape[1]))
        mark = torch.full((1,), TEXT, device=img.device)
        concepts = model.llm_cond_proj(model.llm_cond_norm(tokens.rows[None].to(img)))
        concepts = concepts + model.embed_image_indicator(mark, out_dtype=img.dtype)
        return ConceptStream(
            concepts=concepts.expand(len(img), -1, -1),
            text_side=lambda index, vec: text_side(model.layers[index], vec, own),
            rotary=sequence,
        )


def text_side(block: Any, vec: Tensor, rotary: Rotary) -> TextSide:
    own = block.attention
    modulation, modulation_mlp = split_four(block.adaln_modulation(vec))
    return TextSide(
        norm=block.attention_norm1, modulation=modulation, rotary=rotary,
        project=normed_heads(own.qkv, own.norm_q, own.norm_k, own.num_heads),
        out=lambda x: block.attention_norm2(own.o(x)),
        norm_mlp=block.ffn_norm1,
        mlp=lambda x: block.ffn_norm2(block.feed_forward(x)),
        modulation_mlp=modulation_mlp,
    )  # fmt: skip
