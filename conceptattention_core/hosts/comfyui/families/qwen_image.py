"""Qwen-Image and Qwen-Image-Edit, whose reference images stand behind the image's patches.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken; it stands at the places that they have there. There is no pooled vector.

ComfyUI: `comfy.ldm.qwen_image.model.QwenImageTransformer2DModel`.
"""

from typing import Any

from ....recording import FrameLayout, Grid
from ....rotary import Rotary
from ....text_side import ConceptStream
from ....tokens import ConceptTokens
from ._qwen_stream import qwen_stream
from .base import BlockCall, Family, ModelCall
from .reading import TemplateReader


class QwenImage(Family):
    name = "Qwen-Image"
    model = "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel"
    stack = "transformer_blocks"
    reads = TemplateReader(("qwen25_7b",))

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        layers = FrameLayout(latents)  # of Qwen-Image-Layered: images behind one another
        return Grid.of_latent(h, w, patch=model.patch_size, time=layers)

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt, matrices = block.stream, block.rotary
        # before 0.4 the axis of the heads came third
        as_now = matrices.shape[1] == 1
        sequence = Rotary(matrices) if as_now else Rotary.of_tokens_first(matrices)
        own = sequence.first.at(tokens.positions(txt.shape[1]))
        rows = model.txt_norm(tokens.rows.to(txt))
        return qwen_stream(model, model.txt_in(rows).expand(len(txt), -1, -1), sequence, own)
