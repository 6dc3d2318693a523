"""HiDream-I1 and E1: T5 and Llama are read, and every block is given a layer of Llama of its own.

A concept is read by both encoders alone, padded as a prompt is. In each block it has what a prompt
of its words has there: the rows of T5 and of Llama's last layer, which go on to the next block, and
those of the block's own layer, which do not. Text has no positions, and the pooled vector is zeros.

HiDream-E1 has the image to edit at the right of its own, row by row: the columns of both.

ComfyUI: `comfy.ldm.hidream.model.HiDreamImageTransformer2DModel`, its block
`HiDreamImageTransformerBlock`.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ....recording import Grid
from ....rotary import Rotary
from ....text_side import ConceptStream, Heads, TextSide, split_heads, split_six
from ....tokens import ConceptTokens
from .base import FIRST, BlockCall, Family, Layout, ModelCall
from .reading import T5, T5_END, count_until, expect, tokenize

LLAMA = "llama"
LLAMA_END = 128009

OF_T5, OF_LAST_LAYER, OF_OWN_LAYER = range(3)
"""What a row of a concept is: `ConceptTokens.kind`."""


@dataclass(frozen=True)
class T5AndLlamaReader:
    """Rows `t (layer d)`, those of T5 in the place of Llama's first layer."""

    def read(self, clip: Any, words: list[str], family: str) -> list[ConceptTokens]:
        tokens = tokenize(clip, words)
        for key in (T5, LLAMA):
            expect(key, tokens, clip, family)
        return [self._read(clip, one) for one in tokens]

    def _read(self, clip: Any, tokens: dict[str, Any]) -> ConceptTokens:
        encoded = clip.encode_from_tokens(tokens, return_dict=True)
        t5 = encoded["cond"][0, : count_until(tokens[T5][0], T5_END)]
        t5 = t5[t5.any(dim=1)]  # zeros where T5 is not loaded
        stop = 1 + count_until(tokens[LLAMA][0], LLAMA_END, start=1)
        llama = rearrange(encoded["conditioning_llama3"][0, :, 1:stop], "layer t d -> t (layer d)")
        rows = [F.pad(t5, (0, llama.shape[1] - t5.shape[1])), llama, llama]
        kinds = [kind for kind, own in enumerate(rows) for _ in own]
        return ConceptTokens.of(torch.cat(rows), kind=kinds)


class HiDream(Family):
    name = "HiDream"
    model = "comfy.ldm.hidream.model.HiDreamImageTransformer2DModel"
    stack = "double_stream_blocks"
    image_at = FIRST
    reads = T5AndLlamaReader()
    hooked = True
    arguments: ClassVar = {
        "image": "image_tokens",
        "text": "text_tokens",
        "modulation": "adaln_input",
        "rotary": "rope",
    }

    def text_width(self, model: Any) -> int | None:
        return model.caption_projection[-1].linear.in_features

    def layout(self, model: Any, block: BlockCall, grid: Grid, stream: ConceptStream) -> Layout:
        layout, image = super().layout(model, block, grid, stream), block.image
        if image is None or image.shape[1] == grid.patches:
            return layout
        numbers = torch.arange(image.shape[1], device=image.device)
        own = rearrange(numbers, "(y x) -> y x", y=grid.y)[:, : grid.x]  # E1
        return replace(layout, patches=own.flatten())

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        txt, vec = block.stream, block.modulation
        *project, project_last, project_t5 = model.caption_projection
        chosen = model.llama_layers  # for each block, the last one for what goes on as well
        layers = rearrange(tokens.rows, "t (layer d) -> layer t d", layer=max(chosen) + 1)
        kinds = rearrange(tokens.kind, "t -> t 1").to(txt.device)
        concepts = torch.where(
            kinds == OF_T5,
            project_t5(layers[:1].to(txt)),
            project_last(layers[chosen[-1]][None].to(txt)),
        )
        own_layers = [
            embed(layers[layer][None].to(txt))
            for embed, layer, _ in zip(project, chosen, self.blocks(model))
        ]
        assert call.pooled is not None
        pooled = call.pooled.to(vec)
        vec = vec - model.p_embedder(pooled) + model.p_embedder(torch.zeros_like(pooled))

        def side(index: int, _: Any) -> TextSide:
            own = model.double_stream_blocks[index].block
            return text_side(own, vec, kinds == OF_OWN_LAYER, own_layers[index])

        return ConceptStream(
            concepts=concepts.expand(len(txt), -1, -1),
            text_side=side,
            rotary=Rotary.of_tokens_first(block.rotary),
        )


def text_side(block: Any, vec: Tensor, is_own: Tensor, own_layer: Tensor) -> TextSide:
    """`is_own` (t 1) says which rows are those of the block's own layer, `1 t d`."""
    own = block.attn1

    def project(x: Tensor) -> Heads:
        q, k = own.q_rms_norm_t(own.to_q_t(x)), own.k_rms_norm_t(own.to_k_t(x))
        return split_heads(q, k, own.to_v_t(x), own.heads)

    _, of_text = block.adaLN_modulation(vec).chunk(2, dim=-1)
    modulation, modulation_mlp = split_six(of_text)
    return TextSide(
        norm=lambda x: block.norm1_t(torch.where(is_own, own_layer, x)),
        project=project, modulation=modulation, out=own.to_out_t,
        norm_mlp=block.norm3_t, mlp=block.ff_t, modulation_mlp=modulation_mlp,
    )  # fmt: skip
