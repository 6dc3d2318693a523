"""Polygons onto rasters."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from .shapes import Layout, Shape
from .words import WORDS

SUPERSAMPLING = 2


def fill(points: np.ndarray, size: int) -> tuple[np.ndarray, tuple[slice, slice]] | None:
    """Fill a polygon on a size x size raster: its mask and where the mask's box lies."""
    low = np.clip(np.floor(points.min(0) * size).astype(int), 0, size)
    high = np.clip(np.ceil(points.max(0) * size).astype(int) + 1, 0, size)
    if (high <= low).any():
        return None
    box = Image.new("1", tuple(int(n) for n in high - low))
    corners = points * size - 0.5 - low
    ImageDraw.Draw(box).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
    return np.asarray(box), (slice(low[1], high[1]), slice(low[0], high[0]))


@lru_cache(maxsize=8)
def ramp(length: int) -> np.ndarray:
    return np.linspace(0, 1, length, dtype=np.float32)


def paint(canvas: np.ndarray, labels: np.ndarray, shape: Shape, word: int) -> None:
    """Fill one shape into canvas (float32, h w 3) and labels (uint8, h w), both in place."""
    filled = fill(shape.points, len(labels))
    if filled is None:
        return
    mask, box = filled
    blend = ramp(mask.shape[1 - shape.axis])[:, None]
    start, stop = (np.asarray(colour, np.float32) for colour in (shape.start, shape.stop))
    gradient = (1 - blend) * start + blend * stop
    gradient = np.broadcast_to(
        gradient[None] if shape.axis == 0 else gradient[:, None], (*mask.shape, 3)
    )
    if shape.alpha < 1:
        gradient = canvas[box] + shape.alpha * (gradient - canvas[box])
    np.copyto(canvas[box], gradient, where=mask[..., None])
    labels[box][mask] = word


def render(layout: Layout, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw the layout: picture (uint8, size size 3) and one mask (bool, size size) per word."""
    k = SUPERSAMPLING
    canvas = np.zeros((k * size, k * size, 3), np.float32)
    labels = np.zeros((k * size, k * size), np.uint8)
    shapes = [*layout.backdrop, *(shape for thing in layout.things for shape in thing.shapes)]
    for shape in shapes:
        paint(canvas, labels, shape, WORDS.index(shape.word))
    picture = canvas.reshape(size, k, size, k, 3).mean((1, 3)).round().astype(np.uint8)
    present = np.unique(labels)
    votes = [(labels == word).reshape(size, k, size, k).sum((1, 3)) for word in present]
    winner = present[np.argmax(votes, axis=0)]
    masks = {WORDS[word]: winner == word for word in present}
    return picture, {word: mask for word, mask in masks.items() if mask.any()}
