"""OmniGen2: text, reference images and the image are one sequence, with weights in common.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken; it stands at the places that they have there. Captions are refined before they meet the
image; so every concept is refined by itself, as a caption of its own. There is no pooled vector.

ComfyUI: `comfy.ldm.omnigen.omnigen2.OmniGen2Transformer2DModel`.
"""

from typing import Any, ClassVar

from ....text_side import ConceptStream
from ....tokens import ConceptTokens
from ._omnigen_stream import omnigen_stream, text_side
from .base import LAST, BlockCall, Family, ModelCall
from .reading import TemplateReader


class OmniGen2(Family):
    name = "OmniGen2"
    model = "comfy.ldm.omnigen.omnigen2.OmniGen2Transformer2DModel"
    stack = "layers"
    image_at = LAST
    reads = TemplateReader(("qwen25_3b",))
    text_width_at = "time_caption_embed.caption_embedder.1.in_features"
    hooked = True
    arguments: ClassVar = {
        "sequence": "hidden_states",
        "modulation": "temb",
        "rotary": "image_rotary_emb",
    }

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        return omnigen_stream(
            model, tokens, block, call,
            lambda index, vec, rotary: text_side(model.layers[index], vec, rotary),
        )  # fmt: skip
