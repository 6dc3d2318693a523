"""Concepts in an existing image: noise its latent a little, run the joint blocks once and record.

ConceptAttention, arXiv 2502.04320, section 5. A diffusion model that is asked to go on from a
half-noised image has to understand it, and its blocks know where things are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ConceptAttentionError
from .concepts import split_names
from .texts import clean_text

MEGAPIXELS = 1.0


@dataclass(frozen=True)
class LocateSpec:
    """How a model is shown an image that exists already."""

    caption: str = ""
    """What the image shows, as the prompt of the model; may be empty."""
    noise: tuple[float, ...] = (0.5,)
    """One or more noise levels, each above 0 and below 1: x_t = (1 - t) z + t * noise, or the same
    mixture at unit variance where a model is trained so (`blend_at_unit_variance`).
    """
    samples: int = 1
    """How many different noises are mixed in at each level, 1 or more; scores are averaged."""
    seed: int = 0
    """Seed of the first noise; further ones count up."""
    megapixels: float = MEGAPIXELS
    """Above 0. Larger images are shown to the model in this size; masks come at the image's."""

    def __post_init__(self):
        object.__setattr__(self, "caption", clean_text(self.caption))
        if not self.noise or not all(0 < level < 1 for level in self.noise):
            found = ", ".join(map(str, self.noise)) or "none"
            raise ConceptAttentionError(
                f"Noise levels lie between 0 (the picture) and 1 (noise alone); got {found}."
            )
        if self.samples < 1:
            raise ConceptAttentionError(
                f"A picture is looked at once or more often; got {self.samples} samples."
            )
        if not self.megapixels > 0:
            raise ConceptAttentionError(
                f"A picture of {self.megapixels} megapixels shows nothing; give more than 0."
            )

    @property
    def passes(self) -> int:
        """How often the model is called."""
        return len(self.noise) * self.samples


def parse_noise(text: str) -> tuple[float, ...]:
    """Noise levels from text, comma-separated."""
    try:
        return tuple(float(part) for part in split_names(text))
    except ValueError:
        raise ConceptAttentionError(
            f"Noise levels are numbers between 0 and 1, comma-separated; got '{text}'."
        ) from None


def fit(h: int, w: int, multiple: int, megapixels: float = MEGAPIXELS) -> tuple[int, int]:
    """The size nearest to `h w` that is whole patches and within `megapixels`.

    The shape stays as it is up to half a patch on each side.
    """
    shrink = min(1.0, (megapixels * 2**20 / (h * w)) ** 0.5)
    y, x = (max(1, round(n * shrink / multiple)) for n in (h, w))
    return y * multiple, x * multiple


def resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Images `b rgb h w` in 0..1 at another size (h, w)."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    resized = F.interpolate(
        pictures, size=size, mode="bicubic", align_corners=False, antialias=True
    )
    return resized.clamp(0, 1)


def draw_passes(spec: LocateSpec, latent: Tensor) -> Iterator[tuple[int, float, Tensor]]:
    """For each look its place in `spec.noise`, the noise level, and noise of the latent's shape.

    All images of a batch get the same noise, so that none depends on its neighbours.
    """
    for sample in range(spec.samples):
        generator = torch.Generator().manual_seed(spec.seed + sample)
        noise = torch.randn(1, *latent.shape[1:], generator=generator).to(latent)
        for place, level in enumerate(spec.noise):
            yield place, level, noise.expand_as(latent)


def blend(latent: Tensor, noise: Tensor, level: float) -> Tensor:
    """The latent at a noise level 0..1, as rectified flow has it."""
    return (1 - level) * latent + level * noise


def noise_ratio(level: float) -> float:
    """How many times as much noise as latent there is at a noise level 0..1."""
    return level / (1 - level)


def blend_at_unit_variance(latent: Tensor, noise: Tensor, level: float) -> Tensor:
    """The latent at a noise level 0..1, as a variance-preserving diffusion has it.

    sqrt(a) z + sqrt(1 - a) * noise (Ho et al., arXiv 2006.11239), where noise and latent have the
    ratio that they have in rectified flow: sqrt((1 - a) / a) = `noise_ratio(level)`.
    """
    return blend(latent, noise, level) / ((1 - level) ** 2 + level**2) ** 0.5
