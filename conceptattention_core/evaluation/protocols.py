"""How each data set is judged: the paper's settings as presets, each of them open to change.

arXiv 2502.04320, section 5 and appendix. A protocol says what the model is asked about a sample
and how the answer becomes classes that can be compared with the true ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..concepts import Concept, ConceptSet
from ..pixels import ImageArray, to_floats
from ..ranges import DEEP
from ..refine import follow_edges
from .datasets import Sample
from .metrics import Score

Size = tuple[int, int]


@dataclass(frozen=True)
class Protocol:
    """What is asked and how it is judged."""

    picture: int | None
    """Side in pixels that images are brought to, or None for as they are."""
    labels: int | None
    """Side in pixels at which classes are compared, or None for the image's size."""
    grounds: tuple[str, ...]
    """Concepts that compete with the classes and count as background."""
    caption: Callable[[tuple[str, ...]], str]
    """From a sample's words to the caption that the model gets."""
    noise: tuple[float, ...]
    """Noise levels, see LocateSpec."""
    samples: int
    """Noises at each level, see LocateSpec."""
    blocks: str
    """Blocks that are recorded, see RecordSpec."""
    softmax: bool
    """Whether concepts compete in each block before the mean."""
    blur: bool
    """Whether maps are smoothed with a Gaussian of 3 x 3 patches, sigma 1."""
    judge: Callable[[Tensor, list[int]], tuple[np.ndarray, np.ndarray | None]]
    """From heat `c h w` and the labels of its first concepts to the label of each pixel and, of
    binary tasks, heat of the foreground.
    """
    nearest: bool = False
    """Whether images are resized by nearest neighbour, else by cubics."""
    edges: bool = False
    """Whether heat follows the image's edges (ours; no protocol of the paper)."""

    def concepts(self, sample: Sample) -> ConceptSet:
        """The words of a sample, then the grounds that are not among them."""
        words = tuple(dict.fromkeys(sample.classes.values()))
        grounds = [ground for ground in self.grounds if ground not in words]
        return ConceptSet(tuple(Concept(word, word) for word in (*words, *grounds)))

    def image(self, sample: Sample) -> ImageArray:
        """The image at the protocol's size."""
        if self.picture is None:
            return sample.image
        side = (self.picture, self.picture)
        how = cv2.INTER_NEAREST if self.nearest else cv2.INTER_CUBIC
        return cv2.resize(sample.image, side, interpolation=how).astype(np.uint8, copy=False)

    def truth(self, sample: Sample) -> np.ndarray:
        """The labels `h w` at the protocol's size."""
        if self.labels is None:
            return sample.labels
        return cv2.resize(
            sample.labels, (self.labels, self.labels), interpolation=cv2.INTER_NEAREST
        )

    def score(self, sample: Sample, maps: Tensor) -> Score:
        """Judge maps `c y x` of one sample."""
        true = self.truth(sample)
        heat = smooth(maps) if self.blur else maps
        heat = F.interpolate(heat[None], size=true.shape, mode="bilinear", align_corners=False)
        if self.edges:
            small = cv2.resize(sample.image, true.shape[::-1], interpolation=cv2.INTER_AREA)
            guide = small.astype(np.uint8)
            heat = follow_edges(heat, rearrange(to_floats(guide), "h w rgb -> 1 rgb h w"))
        heat = heat[0]
        labels = list(sample.classes)
        found, foreground = self.judge(heat, labels)
        score = Score()
        score.add(found, true, foreground)
        return score

    def changed(self, **settings: object) -> Protocol:
        """The protocol with what is not None in `settings`."""
        return replace(self, **{name: v for name, v in settings.items() if v is not None})


def smooth(maps: Tensor) -> Tensor:
    """A Gaussian of 3 x 3 patches with sigma 1 over maps `c y x`, edges repeated."""
    line = torch.exp(-(torch.tensor([-1.0, 0.0, 1.0]) ** 2) / 2)
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel)[:, 0]


# --- from heat to classes -------------------------------------------------------------------------


def judge_above_mean(heat: Tensor, labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One class: foreground is where its heat is above its own mean over the image."""
    first = heat[0]
    return (first > first.mean()).numpy().astype(np.uint8), stretch(first)


def judge_strongest(heat: Tensor, labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One class: foreground is where it is the strongest concept."""
    return (heat.argmax(0) == 0).numpy().astype(np.uint8), stretch(heat[0])


def judge_classes(heat: Tensor, labels: list[int]) -> tuple[np.ndarray, None]:
    """Several classes: the strongest concept; the grounds are background."""
    keys = torch.zeros(len(heat), dtype=torch.uint8)
    keys[: len(labels)] = torch.tensor(labels, dtype=torch.uint8)
    return keys[heat.argmax(0)].numpy(), None


def stretch(heat: Tensor) -> np.ndarray:
    """Heat `h w` as 0..1 over its own range."""
    low, high = heat.min(), heat.max()
    return ((heat - low) / (high - low).clamp_min(1e-12)).numpy()


def caption_single(words: tuple[str, ...]) -> str:
    return f"a {words[0]}"


def caption_all(words: tuple[str, ...]) -> str:
    return ",".join(f"a {word}" for word in words)


PROTOCOLS: dict[str, Protocol] = {
    "imagenet-segmentation": Protocol(
        picture=512,
        labels=224,
        grounds=("background", "floor", "tree", "person", "grass", "face"),
        caption=caption_single,
        noise=(0.5,),
        samples=5,
        blocks="14-17",
        softmax=True,
        blur=True,
        judge=judge_above_mean,
    ),
    "voc-single": Protocol(
        picture=512,
        labels=224,
        grounds=("background", "floor", "grass", "tree", "sky"),
        caption=caption_single,
        noise=(0.513,),
        samples=1,
        blocks="14-18",
        softmax=False,
        blur=True,
        judge=judge_strongest,
        nearest=True,
    ),
    "voc-multi": Protocol(
        picture=1024,
        labels=64,
        grounds=("background", "floor", "grass", "tree", "sky"),
        caption=caption_all,
        noise=(0.513,),
        samples=1,
        blocks="14-17",
        softmax=False,
        blur=False,
        judge=judge_classes,
        nearest=True,
    ),
    "scenes": Protocol(
        picture=None,
        labels=None,
        grounds=(),
        caption=lambda words: "",
        noise=(0.5,),
        samples=1,
        blocks=DEEP,
        softmax=True,
        blur=False,
        judge=judge_classes,
    ),
}
