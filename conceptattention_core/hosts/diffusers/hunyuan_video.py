"""HunyuanVideo: Flux's blocks for videos.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. Prompts go through a refiner, in which all tokens of a text meet; so every concept is
refined by itself, as a text of its own. Its pooled vector is zeros, and text has no positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import HunyuanVideoPipeline
from torch import Tensor, nn

from ...attention import ImageVectors
from ...recording import Grid, Time
from .family import Family
from .joint_attention import TextSide, image_vectors
from .reading import read_template, with_column

LENGTH = 256  # tokens


class HunyuanVideo(Family):
    name = "HunyuanVideo"
    time_unit = 1

    def matches(self, transformer: Any) -> bool:
        return isinstance(transformer, HunyuanVideoTransformer3DModel)

    def blocks(self, transformer: HunyuanVideoTransformer3DModel) -> nn.ModuleList:
        return transformer.transformer_blocks

    def text_length(self, pipe: HunyuanVideoPipeline) -> int:
        return LENGTH

    def embed(self, pipe: Any, words: list[str], length: int) -> list[Tensor]:
        rows = read_template(pipe, words, length, self.name)
        return [with_column(own[:, :-1], [number] * len(own)) for number, own in enumerate(rows)]

    def grid(self, pipe: HunyuanVideoPipeline, call: Mapping[str, Any]) -> Grid:
        config = pipe.transformer.config
        _, _, latents, h, w = call["hidden_states"].shape
        time = Time(latents, pipe.vae_scale_factor_temporal, config.patch_size_t)
        return Grid.of_latent(h, w, config.patch_size, pipe.vae_scale_factor_spatial, time)

    def enter(
        self,
        transformer: HunyuanVideoTransformer3DModel,
        rows: Tensor,
        call: Mapping[str, Any],
        first: Mapping[str, Any],
    ) -> "HunyuanRide":
        timestep, guidance = call["timestep"][:1], call.get("guidance")
        rows, owners = rows[:, :-1].to(call["encoder_hidden_states"]), rows[:, -1]
        starts = [0, *(owners.diff().nonzero().flatten() + 1).tolist(), len(rows)]
        refined = [
            transformer.context_embedder(rows[None, start:stop], timestep)
            for start, stop in pairwise(starts)
        ]
        temb, _ = transformer.time_text_embed(
            timestep,
            torch.zeros_like(call["pooled_projections"][:1]),
            None if guidance is None else guidance[:1],
        )
        concepts = torch.cat(refined, dim=1)
        return HunyuanRide(transformer.transformer_blocks, concepts, temb, first["freqs_cis"])


@dataclass(frozen=True)
class HunyuanRide:
    blocks: nn.ModuleList  # of HunyuanVideoTransformerBlock
    concepts: Tensor
    temb: Tensor
    waves: tuple[Tensor, Tensor]  # cos and sin of the image, p d

    def block(self, index: int) -> TextSide:
        return TextSide(self.blocks[index], self.temb)

    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        attention: Any = self.blocks[index].attn
        rotate: Any = apply_rotary_emb  # annotated too narrowly
        return image_vectors(attention, q, k, v, outputs, partial(rotate, freqs_cis=self.waves))
