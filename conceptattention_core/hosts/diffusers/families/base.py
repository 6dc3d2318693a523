"""What a model family declares. `FAMILIES` in `__init__.py` lists those there are."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from .... import ConceptAttentionError
from ....attention import JointBlock
from ....classes import is_a
from ....locating import blend
from ....recording import Grid
from ....tokens import ConceptTokens
from ..calls import BlockCall, ModelCall

Rope = Callable[[Tensor], Tensor]
"""Puts queries or keys `b head n d` at their rotary positions."""


def no_rope(heads: Tensor) -> Tensor:
    """For queries or keys without positions, or at the origin."""
    return heads


@dataclass(frozen=True, eq=False)
class ConceptStream:
    """Concepts as they start in one call of a transformer, and what takes them through its blocks.

    All rows of a call are at one noise level, so concepts start as one for all of them.
    """

    concepts: Tensor
    """The stream before block 0, `1 t (head d)`."""
    text_side: Callable[[Any], JointBlock]
    """The text side of a joint block, given the block."""
    image_rope: Rope = no_rope
    """Puts queries or keys of patches at their positions, as the transformer itself does."""


class Family(ABC):
    """A family of models with joint text-image attention, as diffusers runs them."""

    name: ClassVar[str]
    """As users know it."""
    model: ClassVar[str]
    """The class of its transformer, by its full name: not every diffusers has every class."""
    encoder: ClassVar[str]
    """The text encoder that reads concepts, as users know it."""
    encoder_parts: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")
    """The parts of a pipeline that concepts are read with."""
    time_unit: ClassVar[int] = 1000
    """What the scheduler's timesteps are divided by on their way into the transformer."""

    def matches(self, transformer: Any) -> bool:
        return is_a(transformer, self.model)

    def blocks(self, transformer: Any) -> nn.ModuleList:
        """The joint-attention blocks."""
        return transformer.transformer_blocks

    def attention(self, block: Any) -> Any:
        """A block's joint attention, with to_q, to_k, to_v and to_out."""
        return block.attn

    @abstractmethod
    def text_length(self, pipe: Any) -> int:
        """How many tokens prompts are padded to, unless the call of the pipeline says so."""

    def require_encoder(self, pipe: Any) -> None:
        """Raise where a pipeline was loaded without what concepts are read with."""
        missing = [part for part in self.encoder_parts if getattr(pipe, part, None) is None]
        if missing:
            raise ConceptAttentionError(
                f"{self.name} reads concepts with {self.encoder}; this pipeline has no "
                f"{' and no '.join(missing)}. Load it with {' and '.join(self.encoder_parts)}."
            )

    @abstractmethod
    def embed(self, pipe: Any, words: list[str], length: int) -> list[ConceptTokens]:
        """For each concept its own tokens: no padding, no start, no end token.

        Each is encoded alone, padded to `length` tokens.
        """

    @abstractmethod
    def grid(self, pipe: Any, call: ModelCall) -> Grid:
        """The patch grid of the image, given what the transformer was called with."""

    @abstractmethod
    def start_stream(
        self, transformer: Any, tokens: ConceptTokens, call: ModelCall, first: BlockCall
    ) -> ConceptStream:
        """The concepts in one call of the transformer, given what it and block 0 were called with.

        `call` has the rows of the prompt alone, `first` all rows.
        """

    def tokens_before_patches(self, call: ModelCall, first: BlockCall) -> int:
        """How many tokens stand before the image's patches in what `to_q` projects."""
        return 0

    # images that exist already

    def patch_pixels(self, pipe: Any) -> int:
        """Pixels along one side of a patch."""
        return 2 * vae_scale(pipe)

    @abstractmethod
    def encode(self, pipe: Any, images: Tensor) -> Tensor:
        """Images `b rgb h w`, 0..1, sides whole patches, as latents `b c h w` of unit scale.

        Those of videos have an axis of frames where the transformer has it. The mean of what the
        encoder believes, not a sample.
        """

    def blend(self, latent: Tensor, noise: Tensor, level: float) -> Tensor:
        """The latent at a noise level 0..1, as the model was trained: most by rectified flow."""
        return blend(latent, noise, level)

    @abstractmethod
    def prepare_call(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        """A function from a noised latent of `shape` (as `encode` gives it) and its noise level
        (0..1) to what the transformer is called with. Pooled text is zeros, guidance 0: the
        authors' defaults.
        """


class VideoFamily(Family):
    """A family that makes videos. An image is located in as a video of one frame."""

    stride: ClassVar[int]
    """Videos have one frame and then so many at a time."""

    def patch_pixels(self, pipe: Any) -> int:
        return pipe.transformer.config.patch_size * vae_scale(pipe)

    @abstractmethod
    def fps(self, pipe: Any) -> int:
        """Frames in a second of the videos that the model was trained on."""


def vae_scale(pipe: Any) -> int:
    """Pixels along one side of a latent's cell, as the autoencoder has them.

    Pipelines of before diffusers 0.32 counted the patch of the transformer in.
    """
    vae = getattr(pipe, "vae", None)
    stated = getattr(vae, "spatial_compression_ratio", None)
    stages = getattr(getattr(vae, "config", None), "block_out_channels", None)
    if isinstance(stated, int):
        return stated
    if stages is not None:
        return 2 ** (len(stages) - 1)
    spatial = getattr(pipe, "vae_scale_factor_spatial", None)  # a pipeline without its autoencoder
    return pipe.vae_scale_factor if spatial is None else spatial


def encode_images(pipe: Any, images: Tensor) -> Tensor:
    """The latent, of any scale, that the autoencoder believes in most; images are 0..1."""
    vae = pipe.vae
    with torch.no_grad():
        return vae.encode(images.to(pipe._execution_device, vae.dtype) * 2 - 1).latent_dist.mode()


def encode_single_frames(pipe: Any, images: Tensor) -> Tensor:
    """`encode_images` with an autoencoder of videos: each image is one frame, `b c 1 h w`."""
    return encode_images(pipe, rearrange(images, "b rgb h w -> b rgb 1 h w"))
