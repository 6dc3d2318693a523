"""HunyuanVideo: Flux's blocks for videos.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. Prompts go through a refiner, in which all tokens of a text meet; so every concept is
refined by itself, as a text of its own. Its pooled vector is zeros, and text has no positions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import HunyuanVideoPipeline
from torch import Tensor, nn

from ....attention import ImageVectors
from ....recording import Grid, Time
from .base import Ride, VideoFamily, see_still, vae_scale
from .joint_attention import TextSide, image_vectors
from .reading import read_template, with_column

LENGTH = 256  # tokens


class HunyuanVideo(VideoFamily):
    name = "HunyuanVideo"
    time_unit = 1
    stride = 4

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
        return Grid.of_latent(h, w, config.patch_size, vae_scale(pipe), time)

    def fps(self, pipe: HunyuanVideoPipeline) -> int:
        return 24  # arXiv 2412.03603

    def encode(self, pipe: Any, pictures: Tensor) -> Tensor:
        """Latents `b c 1 h w`."""
        return see_still(pipe, pictures) * pipe.vae.config.scaling_factor

    def prepare(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        b, dtype = shape[0], pipe.transformer.dtype
        with torch.no_grad():
            text, pooled, mask = pipe.encode_prompt(
                caption, num_videos_per_prompt=b, max_sequence_length=length
            )

        def arguments(latent: Tensor, level: float) -> dict[str, Any]:
            return {
                "hidden_states": latent.to(text.device, dtype),
                "timestep": torch.full((b,), 1000 * level, device=text.device),
                "encoder_hidden_states": text.to(dtype),
                "encoder_attention_mask": mask.to(dtype),
                "pooled_projections": torch.zeros_like(pooled, dtype=dtype),
                "guidance": torch.zeros(b, device=text.device, dtype=dtype),
            }

        return arguments

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
class HunyuanRide(Ride):
    """Its blocks are `HunyuanVideoTransformerBlock`s."""

    temb: Tensor
    waves: tuple[Tensor, Tensor]  # cos and sin of the image, p d

    def block(self, index: int) -> TextSide:
        return TextSide(self.blocks[index], self.temb)

    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        attention: Any = self.blocks[index].attn
        rotate: Any = apply_rotary_emb  # annotated too narrowly
        return image_vectors(attention, q, k, v, outputs, partial(rotate, freqs_cis=self.waves))
