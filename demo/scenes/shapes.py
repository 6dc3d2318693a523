"""Flat polygons in unit coordinates, the things made of them, and how they are coloured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """A polygon (float, n 2, unit coordinates) that belongs to `word`.

    Its colour runs linearly from `start` to `stop` along the axis (0: x, 1: y) of its bounding
    box. `alpha` below 1 lets what lies beneath shine through, for glows and ripples.
    """

    word: str
    points: np.ndarray
    start: RGB
    stop: RGB
    axis: int = 1
    alpha: float = 1.0


@dataclass(frozen=True)
class Thing:
    """A drawn thing: the word it shows, its shapes and the colour its caption may name."""

    word: str
    shapes: tuple[Shape, ...]
    colour: str | None = None


@dataclass(frozen=True)
class Layout:
    """What a scene shows, back to front, before anything is rendered.

    `sky` or `ground` is None in a view that has none of it.
    """

    sky: str | None
    ground: str | None
    backdrop: tuple[Shape, ...]
    things: tuple[Thing, ...]


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """Blend two colours; share 0 gives a, 1 gives b."""
    red, green, blue = ((1 - share) * p + share * q for p, q in zip(a, b))
    return red, green, blue


def lighten(colour: RGB, share: float) -> RGB:
    return mix(colour, (255, 255, 255), share)


def darken(colour: RGB, share: float) -> RGB:
    return mix(colour, (18, 14, 40), share)


def polygon(*corners: tuple[float, float]) -> np.ndarray:
    return np.array(corners, dtype=np.float64)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, corners: int = 40
) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + (ry or rx) * np.sin(turn)], axis=1)


def rosette(
    x: float, y: float, radius: float, petals: int, depth: float, turn: float
) -> np.ndarray:
    """A flower or a sunburst: a circle whose radius swings by `depth` once per petal."""
    angle = np.linspace(0, 2 * np.pi, 12 * petals, endpoint=False)
    swing = radius * (1 - depth + depth * np.cos(petals * (angle - turn)))
    return np.stack([x + swing * np.cos(angle), y + swing * np.sin(angle)], axis=1)


def band(top: Callable[[np.ndarray], np.ndarray], bottom: float = 1.0) -> np.ndarray:
    """Everything below the curve y = top(x), across the whole picture."""
    x = np.linspace(0, 1, 49)
    return np.concatenate([np.stack([x, top(x)], axis=1), [[1, bottom], [0, bottom]]])
