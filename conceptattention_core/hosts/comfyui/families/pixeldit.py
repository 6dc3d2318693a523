"""PixelDiT and PiD, the decoder made from it: images of pixels instead of latents.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. It stands at the places that they have there: by rotation in every block, and by what
the model adds to a text before block 0. There is no pooled vector. The blocks on pixels behind
those on patches see no text. ComfyUI: `comfy.ldm.pixeldit.model.MMDiTBlockT2I`.
"""

from typing import Any, ClassVar

from torch import Tensor

from ....rotary import Rotary
from ....text_side import ConceptStream, TextSide, normed_heads, split_six
from ....tokens import ConceptTokens
from .base import BlockCall, Family, ModelCall
from .reading import TemplateReader


class PixelDiT(Family):
    name = "PixelDiT"
    model = "comfy.ldm.pixeldit.model.PixDiT_T2I"
    stack = "patch_blocks"
    latent_pixels = 1
    reads = TemplateReader(("gemma2_2b",))
    text_width_at = "txt_embed_dim"
    hooked = True
    arguments: ClassVar = {
        "image": "x",
        "text": "y",
        "modulation": "c",
        "rotary": "pos_img",
        "text_rotary": "pos_txt",
    }

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt = block.stream
        places = tokens.positions(txt.shape[1])
        own = Rotary(block.text_rotary[None, None]).at(places)
        concepts = model.y_embedder(tokens.rows[None].to(txt))
        concepts = concepts + model.y_pos_embedding.to(txt)[:, places]
        return ConceptStream(
            concepts=concepts.expand(len(txt), -1, -1),
            text_side=lambda index, vec: text_side(model.patch_blocks[index], vec, own),
            rotary=Rotary(block.rotary[None, None]),
            of_patches=True,
        )


def text_side(block: Any, vec: Tensor, rotary: Rotary) -> TextSide:
    own = block.attn
    modulation, modulation_mlp = split_six(block.adaLN_modulation_txt(vec))
    return TextSide(
        norm=block.norm_y1, modulation=modulation, rotary=rotary, out=own.proj_y,
        project=normed_heads(own.qkv_y, own.q_norm_y, own.k_norm_y, own.num_heads),
        norm_mlp=block.norm_y2, mlp=block.mlp_y, modulation_mlp=modulation_mlp,
    )  # fmt: skip
