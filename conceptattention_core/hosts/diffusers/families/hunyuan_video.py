"""HunyuanVideo: Flux's blocks for videos.

A concept is read by the language model inside the template of a prompt, from which its own tokens
are taken. Prompts go through a refiner, in which all tokens of a text meet; so every concept is
refined by itself, as a text of its own. Its pooled vector is zeros, and text has no positions.

In diffusers: models/transformers/transformer_hunyuan_video.py, `HunyuanVideoTransformerBlock`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....recording import FrameLayout, Grid
from ....tokens import ConceptTokens
from ..calls import BlockCall, ModelCall
from .base import ConceptStream, VideoFamily, encode_single_frames, vae_scale
from .joint_attention import rope_of, text_side
from .reading import read_template

LENGTH = 256  # tokens


class HunyuanVideo(VideoFamily):
    name = "HunyuanVideo"
    model = "diffusers.models.transformers.transformer_hunyuan_video.HunyuanVideoTransformer3DModel"
    encoder = "its language model"
    time_unit = 1
    stride = 4

    def text_length(self, pipe: Any) -> int:
        return LENGTH

    def embed(self, pipe: Any, words: list[str], length: int) -> list[ConceptTokens]:
        return read_template(pipe, words, length)

    def grid(self, pipe: Any, call: ModelCall) -> Grid:
        config = pipe.transformer.config
        _, _, latents, h, w = call.hidden_states.shape
        time = FrameLayout(latents, pipe.vae_scale_factor_temporal, config.patch_size_t)
        return Grid.of_latent(h, w, config.patch_size, vae_scale(pipe), time)

    def fps(self, pipe: Any) -> int:
        return 24  # arXiv 2412.03603

    def start_stream(
        self, transformer: Any, tokens: ConceptTokens, call: ModelCall, first: BlockCall
    ) -> ConceptStream:
        timestep = call.timestep[:1]
        rows = tokens.rows.to(call.encoder_hidden_states)
        refined = [
            transformer.context_embedder(own[None], timestep) for own in rows.split(tokens.counts)
        ]
        temb, _ = transformer.time_text_embed(
            timestep,
            torch.zeros_like(call.pooled_projections[:1]),
            None if call.guidance is None else call.guidance[:1],
        )
        side = partial(text_side, temb=temb)
        return ConceptStream(torch.cat(refined, dim=1), side, rope_of(*first.freqs_cis))

    def encode(self, pipe: Any, images: Tensor) -> Tensor:
        """Latents `b c 1 h w`."""
        return encode_single_frames(pipe, images) * pipe.vae.config.scaling_factor

    def prepare_call(
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
