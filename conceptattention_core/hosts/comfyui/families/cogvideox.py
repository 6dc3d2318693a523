"""CogVideoX (2b, 5b and 1.5): one set of weights for both streams, modulated apart.

A concept is read by T5 alone, padded as a prompt is (arXiv 2502.04320, section 5.4). Text has no
positions and there is no pooled vector.

ComfyUI: `comfy.ldm.cogvideo.model.CogVideoXBlock`, since 0.21.
"""

from typing import Any, ClassVar

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ....recording import FrameLayout, Grid
from ....rotary import Rotary
from ....text_side import ConceptStream, Heads, Modulation, TextSide, split_heads
from ....tokens import ConceptTokens
from .base import BlockCall, Family, ModelCall
from .reading import T5Reader

FRAMES_PER_LATENT = 4


class CogVideoX(Family):
    name = "CogVideoX"
    model = "comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel"
    stack = "blocks"
    reads = T5Reader()
    text_width_at = "patch_embed.text_proj.in_features"
    hooked = True
    arguments: ClassVar = {
        "image": "hidden_states",
        "text": "encoder_hidden_states",
        "modulation": "temb",
        "rotary": "image_rotary_emb",
    }

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        time = FrameLayout(latents, FRAMES_PER_LATENT, patch=model.patch_size_t or 1)
        return Grid.of_latent(h, w, model.patch_size, time=time)

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt, project = block.stream, model.patch_embed.text_proj
        concepts = project(tokens.rows.to(project.weight.dtype)).to(txt)
        return ConceptStream(
            concepts=concepts.expand(len(txt), -1, -1),
            text_side=lambda index, vec: text_side(model.blocks[index], vec),
            # None in models that add positions before block 0
            rotary=None if block.rotary is None else Rotary.of_cos_sin(*block.rotary),
            of_patches=True,
        )


def text_side(block: Any, vec: Tensor) -> TextSide:
    def project(x: Tensor) -> Heads:
        q, k, v = split_heads(block.q(x), block.k(x), block.v(x), block.num_heads)
        return block.norm_q(q), block.norm_k(k), v

    def modulation(norm: Any) -> Modulation:
        parts = norm.linear(norm.silu(vec))  # three for the image, then three for the text
        return Modulation(*rearrange(parts, "b (six d) -> six b 1 d", six=6)[3:])

    return TextSide(
        norm=block.norm1.norm, project=project, modulation=modulation(block.norm1),
        out=block.attn_out,
        norm_mlp=block.norm2.norm,
        mlp=lambda x: block.ff_out(F.gelu(block.ff_proj(x), approximate="tanh")),
        modulation_mlp=modulation(block.norm2),
    )  # fmt: skip
