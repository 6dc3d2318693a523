"""What a model family has to say for itself. `families.py` lists those there are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from ....attention import ImageVectors, JointBlock
from ....locating import blend
from ....recording import Grid


@dataclass(frozen=True)
class Ride(ABC):
    """Concepts on their way through one call of a transformer.

    All pictures of a call are at one noise level, so that concepts start as one for all of them.
    """

    blocks: Sequence[Any] | nn.ModuleList
    """The joint blocks that are listened to. Others may stand in for them during a call."""
    concepts: Tensor
    """The stream as it enters block 0, `1 t (head d)`."""

    @abstractmethod
    def block(self, index: int) -> JointBlock: ...

    @abstractmethod
    def image(self, index: int, q: Tensor, k: Tensor, v: Tensor, outputs: Tensor) -> ImageVectors:
        """The image side of a block, from what its projections gave, all `b p (head d)`."""


class Family(ABC):
    name: ClassVar[str]

    time_unit: ClassVar[int] = 1000
    """What the scheduler's timesteps are divided by on their way into the transformer."""

    @abstractmethod
    def matches(self, transformer: Any) -> bool: ...

    @abstractmethod
    def blocks(self, transformer: Any) -> nn.ModuleList:
        """The joint blocks."""

    def attention(self, block: Any) -> Any:
        """A block's joint attention, with to_q, to_k, to_v and to_out."""
        return block.attn

    @abstractmethod
    def text_length(self, pipe: Any) -> int:
        """How many tokens prompts are padded to, unless the pipeline is told otherwise."""

    @abstractmethod
    def embed(self, pipe: Any, words: list[str], length: int) -> list[Tensor]:
        """For each concept the rows `t n` of its own tokens: no padding, no end token.

        Each is encoded alone, padded to `length` tokens.
        """

    @abstractmethod
    def grid(self, pipe: Any, call: Mapping[str, Any]) -> Grid:
        """The patch grid of the picture, given what the transformer was called with."""

    @abstractmethod
    def enter(
        self,
        transformer: Any,
        rows: Tensor,
        call: Mapping[str, Any],
        first: Mapping[str, Any],
    ) -> Ride:
        """Let concepts `t n` enter, given what the transformer and block 0 were called with."""

    def before_patches(self, call: Mapping[str, Any], first: Mapping[str, Any]) -> int:
        """How many tokens stand before the picture's patches in what `to_q` projects."""
        return 0

    # pictures that exist already

    def patch_pixels(self, pipe: Any) -> int:
        """Pixels along one side of a patch."""
        return 2 * vae_scale(pipe)

    @abstractmethod
    def encode(self, pipe: Any, pictures: Tensor) -> Tensor:
        """Pictures `b rgb h w`, 0..1, sides whole patches, as latents `b c h w` of unit scale.

        Those of videos have an axis of frames where the transformer has it. The mean of what the
        encoder believes, not a sample.
        """

    def blend(self, latent: Tensor, noise: Tensor, level: float) -> Tensor:
        """The latent at a noise level 0..1, as the model was trained: most by rectified flow."""
        return blend(latent, noise, level)

    @abstractmethod
    def prepare(
        self, pipe: Any, shape: torch.Size, caption: str, length: int
    ) -> Callable[[Tensor, float], dict[str, Any]]:
        """A function from a noised latent of `shape` (as `encode` gives it) and its noise level
        (0..1) to what the transformer is called with. Pooled text is zeros, guidance 0: the
        authors' defaults.
        """


class VideoFamily(Family):
    """A family that makes videos. It looks at a picture as at a video of one."""

    stride: ClassVar[int]
    """Videos have one frame and then so many at a time."""

    def patch_pixels(self, pipe: Any) -> int:
        return pipe.transformer.config.patch_size * vae_scale(pipe)

    @abstractmethod
    def fps(self, pipe: Any) -> int:
        """Pictures in a second of the videos that the model was trained on."""


def vae_scale(pipe: Any) -> int:
    """Pixels along one side of a latent's cell, as the autoencoder has them.

    Pipelines of before diffusers 0.32 counted the patch of the transformer in.
    """
    vae = getattr(pipe, "vae", None)
    told = getattr(vae, "spatial_compression_ratio", None)
    stages = getattr(getattr(vae, "config", None), "block_out_channels", None)
    if isinstance(told, int):
        return told
    if stages is not None:
        return 2 ** (len(stages) - 1)
    spatial = getattr(pipe, "vae_scale_factor_spatial", None)  # a pipeline without its autoencoder
    return pipe.vae_scale_factor if spatial is None else spatial


def see(pipe: Any, pictures: Tensor) -> Tensor:
    """The latent, of any scale, that the autoencoder believes in most; pictures are 0..1."""
    vae = pipe.vae
    with torch.no_grad():
        return vae.encode(pictures.to(pipe._execution_device, vae.dtype) * 2 - 1).latent_dist.mode()


def see_still(pipe: Any, pictures: Tensor) -> Tensor:
    """`see` with an autoencoder of videos: each picture is one, of one picture, `b c 1 h w`."""
    return see(pipe, rearrange(pictures, "b rgb h w -> b rgb 1 h w"))
