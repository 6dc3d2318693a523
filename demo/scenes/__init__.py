"""Storybook landscapes with an exact mask for every word.

A scene is laid out in unit coordinates (x to the right, y down, both 0..1) as a list of flat
polygons, each owned by one word. Rendering fills the polygons in order, at twice the wanted size,
so the same seed gives the same composition at any size, and the masks tile the picture: every
pixel belongs to exactly one word.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .captions import write_caption
from .layout import PROBE_SIZE, lay_out
from .rendering import render
from .shapes import Layout, Shape, Thing
from .words import ALIASES, COLOURS, GROUNDS, SKIES, WORDS

__all__ = [
    "ALIASES",
    "COLOURS",
    "GROUNDS",
    "HELD_OUT_SEED",
    "PROBE_SIZE",
    "SKIES",
    "WORDS",
    "Layout",
    "Scene",
    "Shape",
    "Thing",
    "lay_out",
    "render",
    "scene",
    "write_caption",
]

HELD_OUT_SEED = 10_000_000  # scenes from here on are never trained on


@dataclass(frozen=True)
class Scene:
    """A picture (uint8, h w 3), its caption and one mask (bool, h w) per word; the masks tile."""

    image: np.ndarray
    prompt: str
    masks: dict[str, np.ndarray]


def scene(seed: int | np.random.Generator, size: int = 128) -> Scene:
    """The scene of a seed (or the next one of a generator), `size` pixels wide and high."""
    rng = np.random.default_rng(seed)
    layout = lay_out(rng)
    prompt = write_caption(layout, rng)
    image, masks = render(layout, size)
    return Scene(image, prompt, masks)
