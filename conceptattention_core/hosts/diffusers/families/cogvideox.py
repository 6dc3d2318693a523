"""CogVideoX (2b, 5b and 1.5): one set of weights for both streams, modulated apart.

A concept is read by T5 alone, padded as a prompt is (arXiv 2502.04320, section 5.4). Text has no
positions and there is no pooled vector.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.pipelines.cogvideo.pipeline_cogvideox import CogVideoXPipeline
from einops import repeat
from torch import Tensor, nn

from .... import ConceptAttentionError
from ....attention import ImageVectors
from ....locating import blend_at_unit_variance, noise_ratio
from ....recording import Grid, Time
from .base import Ride, VideoFamily, see_still, vae_scale
from .joint_attention import image_vectors, normed, nowhere, split
from .reading import own_rows


class CogVideoX(VideoFamily):
    name = "CogVideoX"
    time_unit = 1
    stride = 8  # cells are decoded in twos: of an even number the first is not one frame alone

    def matches(self, transformer: Any) -> bool:
        return isinstance(transformer, CogVideoXTransformer3DModel)

    def blocks(self, transformer: CogVideoXTransformer3DModel) -> nn.ModuleList:
        return transformer.transformer_blocks

    def attention(self, block: Any) -> Any:
        return block.attn1

    def text_length(self, pipe: CogVideoXPipeline) -> int:
        return pipe.transformer.config.max_text_seq_length

    def embed(self, pipe: Any, words: list[str], length: int) -> list[Tensor]:
        if pipe.text_encoder is None:
            raise ConceptAttentionError(
                "CogVideoX reads concepts with T5; this pipeline was loaded without it. "
                "Load it with text_encoder and tokenizer."
            )
        with torch.no_grad():
            encoded, _ = pipe.encode_prompt(
                words, do_classifier_free_guidance=False, max_sequence_length=length
            )
        return own_rows(encoded, pipe.tokenizer, words, length)

    def grid(self, pipe: CogVideoXPipeline, call: Mapping[str, Any]) -> Grid:
        config = pipe.transformer.config
        _, latents, _, h, w = call["hidden_states"].shape
        # 1.5 puts padding in front, which the pipeline drops after sampling
        time = Time(latents, pipe.vae_scale_factor_temporal, config.patch_size_t or 1)
        return Grid.of_latent(h, w, config.patch_size, vae_scale(pipe), time)

    def fps(self, pipe: CogVideoXPipeline) -> int:
        return 16 if pipe.transformer.config.patch_size_t else 8  # arXiv 2408.06072, and its 1.5

    def encode(self, pipe: Any, pictures: Tensor) -> Tensor:
        """Latents `b frame c h w`. 1.5 pads with the first frame up to a patch along time."""
        config = pipe.transformer.config
        frames = config.patch_size_t or 1
        still = see_still(pipe, pictures) * pipe.vae_scaling_factor_image
        return repeat(still, "b c 1 h w -> b frame c h w", frame=frames)

    def blend(self, latent: Tensor, noise: Tensor, level: float) -> Tensor:
        return blend_at_unit_variance(latent, noise, level)

    def prepare(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        b, frames, _, h, w = shape
        with torch.no_grad():
            text, _ = pipe.encode_prompt(
                caption,
                do_classifier_free_guidance=False,
                num_videos_per_prompt=b,
                max_sequence_length=length,
            )
        waves = None
        if pipe.transformer.config.use_rotary_positional_embeddings:
            pixels = (n * pipe.vae_scale_factor_spatial for n in (h, w))
            waves = pipe._prepare_rotary_positional_embeddings(*pixels, frames, text.device)
        alphas = pipe.scheduler.alphas_cumprod
        ratios = (1 / alphas - 1).sqrt()  # of noise to latent at each timestep

        def arguments(latent: Tensor, level: float) -> dict[str, Any]:
            # the timestep at which the model was trained with the ratio that is nearest
            timestep = (ratios.log() - math.log(noise_ratio(level))).abs().argmin()
            return {
                "hidden_states": latent.to(text),
                "encoder_hidden_states": text,
                "timestep": timestep.to(text.device).expand(b),
                "image_rotary_emb": waves,
            }

        return arguments

    def before_patches(self, call: Mapping[str, Any], first: Mapping[str, Any]) -> int:
        return first["encoder_hidden_states"].shape[1]

    def enter(
        self,
        transformer: CogVideoXTransformer3DModel,
        rows: Tensor,
        call: Mapping[str, Any],
        first: Mapping[str, Any],
    ) -> "CogRide":
        concepts = transformer.patch_embed.text_proj(rows.to(call["encoder_hidden_states"]))
        waves = first.get("image_rotary_emb")
        return CogRide(transformer.transformer_blocks, concepts[None], first["temb"][:1], waves)


@dataclass(frozen=True)
class CogRide(Ride):
    """Its blocks are `CogVideoXBlock`s."""

    temb: Tensor
    waves: tuple[Tensor, Tensor] | None
    """Cos and sin of patches, p d; None where positions were added before block 0."""

    def block(self, index: int) -> "CogBlock":
        return CogBlock(self.blocks[index], self.temb)

    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        attention: Any = self.blocks[index].attn1
        rotate: Any = apply_rotary_emb  # annotated too narrowly
        place = nowhere if self.waves is None else partial(rotate, freqs_cis=self.waves)
        return image_vectors(attention, q, k, v, outputs, place)


@dataclass(frozen=True)
class CogBlock:
    """The text side of a block.

    Projections are the image's, too: their `forward` is called, past the hooks that listen there.
    """

    block: Any  # a CogVideoXBlock
    temb: Tensor

    def heads(self, concepts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.block.attn1
        _, modulated, _, _ = self.block.norm1(concepts, concepts, self.temb)
        if attention.fused_projections:
            projected = attention.to_qkv.forward(modulated).chunk(3, dim=-1)
        else:
            layers = (attention.to_q, attention.to_k, attention.to_v)
            projected = [layer.forward(modulated) for layer in layers]
        q, k, v = (split(x, attention) for x in projected)
        return normed(attention.norm_q, q), normed(attention.norm_k, k), v

    def apply_rope(self, heads: Tensor) -> Tensor:
        return heads

    def update(self, concepts: Tensor, attended: Tensor) -> Tensor:
        *_, gate = self.block.norm1(concepts, concepts, self.temb)
        concepts = concepts + gate * self.block.attn1.to_out[0].forward(attended)
        _, modulated, _, gate = self.block.norm2(concepts, concepts, self.temb)
        return concepts + gate * self.block.ff(modulated)
