"""Lens: Qwen-Image's blocks with one projection for queries, keys and values, the image first.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken: of each the rows of several layers, one behind the other. It stands at the places that
its tokens have there. There is no pooled vector.

ComfyUI: `comfy.ldm.lens.model.LensTransformer2DModel`, since 0.23.
"""

from typing import Any

import torch
from einops import rearrange

from ....recording import Grid
from ....rotary import Rotary
from ....text_side import ConceptStream
from ....tokens import ConceptTokens
from ._qwen_stream import qwen_stream
from .base import FIRST, BlockCall, Family, ModelCall
from .reading import TemplateReader


class Lens(Family):
    name = "Lens"
    model = "comfy.ldm.lens.model.LensTransformer2DModel"
    stack = "transformer_blocks"
    latent_pixels = 16
    image_at = FIRST
    reads = TemplateReader(("gpt_oss",), weighs=False)

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=1, scale=self.latent_pixels)  # latents come packed

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt, sequence = block.stream, Rotary(block.rotary)
        text = txt.shape[1]
        # an empty prompt has no places: the last patch is the nearest to where text starts
        of_text = sequence.first.at(slice(-max(text, 1), None))
        rows = tokens.rows.to(txt)
        if model.multi_layer_encoder_feature:
            layers = rearrange(rows, "t (layer n) -> layer t n", layer=len(model.txt_norm))
            normed = [norm(own) for norm, own in zip(model.txt_norm, layers, strict=True)]
            rows = torch.cat(normed, dim=-1)
        else:
            rows = model.txt_norm(rows)
        return qwen_stream(
            model,
            model.txt_in(rows).expand(len(txt), -1, -1),
            sequence,
            of_text.at(tokens.positions(text)),
            projections=lambda attention, x: attention.txt_qkv(x).chunk(3, dim=-1),
        )
