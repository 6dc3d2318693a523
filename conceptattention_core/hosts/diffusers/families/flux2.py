"""Flux.2 (dev and Klein): Flux's blocks, one modulation for all of them, and a numbered text.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken (arXiv 2502.04320 took one of them). It stands at the places that they have there. There
is no pooled vector.

In diffusers: models/transformers/transformer_flux2.py, `Flux2TransformerBlock`.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ....recording import Grid
from ....text_side import split_six
from ....tokens import ConceptTokens
from ..calls import BlockCall, ModelCall
from .base import ConceptStream, Family, encode_images
from .joint_attention import JointTextSide, joint_text_side, rope_of
from .reading import read_template

LENGTH = 512  # tokens, those of the template included


class Flux2(Family):
    name = "Flux.2"
    model = "diffusers.models.transformers.transformer_flux2.Flux2Transformer2DModel"
    encoder = "its language model"

    def text_length(self, pipe: Any) -> int:
        return min(LENGTH, getattr(pipe.tokenizer, "model_max_length", LENGTH))

    def embed(self, pipe: Any, words: list[str], length: int) -> list[ConceptTokens]:
        return read_template(pipe, words, length)

    def grid(self, pipe: Any, call: ModelCall) -> Grid:
        ids = call.img_ids
        ids = ids[0] if ids.ndim == 3 else ids
        # reference images have other numbers in the first column
        y, x = (int(n) + 1 for n in ids[ids[:, 0] == 0, 1:3].amax(dim=0))
        return Grid.of_latent(y, x, patch=1, scale=self.patch_pixels(pipe))

    def tokens_before_patches(self, call: ModelCall, first: BlockCall) -> int:
        # Klein KV projects reference images once, in front, and remembers their keys
        return call.num_ref_tokens if call.kv_cache_mode == "extract" else 0

    def start_stream(
        self, transformer: Any, tokens: ConceptTokens, call: ModelCall, first: BlockCall
    ) -> ConceptStream:
        text = call.encoder_hidden_states
        length = text.shape[1]
        concepts = transformer.context_embedder(tokens.rows.to(text))
        cos, sin = first.image_rotary_emb
        positions = tokens.positions(length).to(cos.device)
        start = length + self.tokens_before_patches(call, first)
        modulations = split_six(first.temb_mod_txt[:1], fused=False)
        rope = rope_of(cos[positions], sin[positions])

        def text_side(block: Any) -> JointTextSide:
            norms = block.norm1_context, block.norm2_context
            return joint_text_side(block, modulations, *norms, block.ff_context, rope)

        return ConceptStream(concepts[None], text_side, rope_of(cos[start:], sin[start:]))

    def encode(self, pipe: Any, images: Tensor) -> Tensor:
        latent = encode_images(pipe, images)
        patches = rearrange(latent, "b c (y i) (x j) -> b (c i j) y x", i=2, j=2)
        norm = pipe.vae.bn
        mean, variance = (
            rearrange(figures, "c -> c 1 1").to(patches)
            for figures in (norm.running_mean, norm.running_var)
        )
        return (patches - mean) / (variance + pipe.vae.config.batch_norm_eps).sqrt()

    def prepare_call(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        b = shape[0]
        with torch.no_grad():
            text, text_ids = pipe.encode_prompt(
                caption, num_images_per_prompt=b, max_sequence_length=length
            )
        guided = getattr(pipe.transformer.config, "guidance_embeds", True)
        image_ids = pipe._prepare_latent_ids(torch.empty(shape)).to(text.device)

        def arguments(latent: Tensor, level: float) -> dict[str, Any]:
            return {
                "hidden_states": rearrange(latent, "b c y x -> b (y x) c").to(text),
                "timestep": torch.full((b,), level, device=text.device, dtype=text.dtype),
                "guidance": torch.zeros(b, device=text.device) if guided else None,
                "encoder_hidden_states": text,
                "txt_ids": text_ids,
                "img_ids": image_ids,
            }

        return arguments
