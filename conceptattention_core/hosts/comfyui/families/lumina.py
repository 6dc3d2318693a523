"""Lumina 2 (and NewBie) and Z-Image: text and image are one sequence, with weights in common.

A concept is read by the language model inside the template of a prompt, if there is one, from
which its own tokens are taken; it stands at the places that they have there. Captions are refined
before they meet the image, whatever the noise level; so every concept is refined by itself, as a
caption of its own, once in a run. The pooled vector that NewBie has is zeros.

ComfyUI: `comfy.ldm.lumina.model.NextDiT`, its block `JointTransformerBlock`.
"""

from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from ....classes import is_a
from ....recording import Grid
from ....rotary import Rotary
from ....text_side import ConceptStream, Heads, TextSide, split_four
from ....tokens import ConceptTokens
from ._refining import refine
from .base import BlockCall, Family, Layout, ModelCall
from .reading import TemplateReader


class Lumina2(Family):
    name = "Lumina 2"
    model = "comfy.ldm.lumina.model.NextDiT"
    stack = "layers"
    # NewBie has a second encoder, for its pooled vector
    reads = TemplateReader(("gemma2_2b", "gemma3_4b", "gemma"), among=("gemma",))
    text_width_at = "cap_embedder.1.in_features"
    hooked = True
    arguments: ClassVar = {
        "sequence": "x",
        "modulation": "adaln_input",
        "rotary": "freqs_cis",
        "zero_index": "timestep_zero_index",
    }

    def matches(self, model: nn.Module) -> bool:
        return super().matches(model) and _multiple(model) == 1

    def grid(self, model: Any, h: int, w: int, latents: int = 1) -> Grid:
        of_pixels = is_a(model, "comfy.ldm.lumina.model.NextDiTPixelSpace")
        return Grid.of_latent(h, w, patch=model.patch_size, scale=1 if of_pixels else 8)

    def layout(self, model: Any, block: BlockCall, grid: Grid, stream: ConceptStream) -> Layout:
        """Captions, reference images, and the image, filled up with pads."""
        multiple = _multiple(model)
        start = block.length - -(-grid.patches // multiple) * multiple
        return Layout(block.length, slice(start, start + grid.patches))

    def start_stream(
        self, model: Any, tokens: ConceptTokens, block: BlockCall, call: ModelCall
    ) -> ConceptStream:
        img, sequence = block.stream, Rotary.of_tokens_first(block.rotary)
        # with reference images, the image and its caption come after theirs
        caption = block.zero_index[1][0] if block.zero_index else 0
        own = sequence.first.at(slice(caption, None)).at(tokens.positions(call.text_tokens))

        def make() -> Tensor:
            embedded = model.cap_embedder(tokens.rows[None].to(img))
            return refine(embedded, tokens, own, model.context_refiner)

        concepts = call.once(own.matrices, make).expand(len(img), -1, -1)
        noise_level = None
        if getattr(model, "clip_text_pooled_proj", None) is not None:
            time = (1 - call.timesteps) * model.time_scale
            pooled = model.clip_text_pooled_proj(img.new_zeros(len(img), model.clip_text_dim))
            embedded = torch.cat([model.t_embedder(time, dtype=img.dtype), pooled], dim=-1)
            noise_level = model.time_text_embed(embedded)

        def side(index: int, vec: Tensor) -> TextSide:
            # reference images have the noise level 0, and their half comes first
            own_level = vec[-len(concepts) :] if noise_level is None else noise_level
            return text_side(model.layers[index], own_level, own)

        return ConceptStream(concepts=concepts, text_side=side, rotary=sequence)


class ZImage(Lumina2):
    name = "Z-Image"
    reads = TemplateReader(("qwen3_4b",), among=("gemma",))

    def matches(self, model: nn.Module) -> bool:
        return is_a(model, self.model) and _multiple(model) > 1


def text_side(block: Any, vec: Tensor, rotary: Rotary) -> TextSide:
    own = block.attention

    def project(x: Tensor) -> Heads:
        heads = rearrange(own.qkv(x), "b t (head d) -> b head t d", d=own.head_dim)
        q, k, v = heads.split([own.n_local_heads, own.n_kv_heads, own.n_kv_heads], dim=1)
        return own.q_norm(q), own.k_norm(k), v

    modulation, modulation_mlp = split_four(block.adaLN_modulation(vec))
    return TextSide(
        norm=block.attention_norm1, project=project, modulation=modulation, rotary=rotary,
        out=lambda x: block.attention_norm2(_finite(own.out(x))),
        norm_mlp=block.ffn_norm1,
        mlp=lambda x: block.ffn_norm2(_finite(block.feed_forward(x))),
        modulation_mlp=modulation_mlp,
    )  # fmt: skip


def _multiple(model: Any) -> int:
    """What the length of a caption and of an image is a multiple of, by pads."""
    return getattr(model, "pad_tokens_multiple", None) or 1


def _finite(x: Tensor) -> Tensor:
    """Float16 that overflowed, guarded as the block guards its own."""
    return x.nan_to_num(nan=0.0, posinf=65504, neginf=-65504) if x.dtype == torch.float16 else x
