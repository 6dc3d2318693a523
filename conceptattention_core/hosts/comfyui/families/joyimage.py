"""JoyImage-Edit: the image first, then reference images, then the text.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. Text has no positions and there is no pooled vector. Queries are normed and rotated in
one operation; so the image's own are had by turning them back.

ComfyUI: `comfy.ldm.joyimage.model.JoyImageTransformerBlock`, since 0.29.
"""

from typing import Any

from einops import rearrange
from torch import Tensor

from ....recording import FrameLayout, Grid
from ....rotary import Rotary
from ....text_side import ConceptStream, Modulation, TextSide, normed_heads
from ....tokens import ConceptTokens
from .base import FIRST, BlockCall, Family, ModelCall
from .reading import TemplateReader


class JoyImage(Family):
    name = "JoyImage"
    model = "comfy.ldm.joyimage.model.JoyImageTransformer3DModel"
    stack = "double_blocks"
    image_at = FIRST
    reads = TemplateReader(("qwen3vl_8b",))
    text_width_at = "condition_embedder.text_embedder.linear_1.in_features"

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        return Grid.of_latent(h, w, patch=model.patch_size[-1], time=FrameLayout(latents))

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt = block.stream
        concepts = model.condition_embedder.text_embedder(tokens.rows[None].to(txt))
        return ConceptStream(
            concepts=concepts.expand(len(txt), -1, -1),
            text_side=lambda index, vec: text_side(model.double_blocks[index], vec),
            rotary=Rotary.of_tokens_first(block.rotary),
        )


def text_side(block: Any, vec: Tensor) -> TextSide:
    own = block.attn
    six = [rearrange(part, "b d -> b 1 d") for part in block.txt_mod(vec)]
    return TextSide(
        norm=block.txt_norm1, modulation=Modulation(*six[:3]),
        project=normed_heads(
            own.txt_attn_qkv, own.txt_attn_q_norm, own.txt_attn_k_norm, own.num_attention_heads
        ),
        out=own.txt_attn_proj,
        norm_mlp=block.txt_norm2, mlp=block.txt_mlp, modulation_mlp=Modulation(*six[3:]),
    )  # fmt: skip
