"""Masks as places: boxes around them or each of their parts, and points inside."""

from typing import TypeAlias

from torch import Tensor

from ..masks import split_masks
from ..refine import find_middle
from .layers import find_bounds

Bounds: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, the latter two outside."""

SPECK = 0.001
"""Share of the image: smaller parts get no box and no point."""


def find_boxes(
    masks: Tensor, each_part: bool = False, margin: int = 0
) -> list[list[tuple[Tensor, Bounds]]]:
    """For each image of masks `b h w` what has a box, `h w`, and the box.

    That is the whole mask, or `each_part` of it, the largest first; nothing of an empty mask.
    `margin` pixels are added on every side as far as the image goes.
    """
    parts = split_masks(masks, SPECK) if each_part else masks[None]  # n b h w
    return [
        [(part[b], box) for part in parts if (box := find_bounds(part[b] > 0.5, margin))]
        for b in range(len(masks))
    ]


def find_points(mask: Tensor) -> list[tuple[int, int]]:
    """Column and row of a pixel in the middle of each part of a mask `h w`, the largest first."""
    parts = [part for part in split_masks(mask[None], SPECK)[:, 0].numpy() if part.any()]
    return [(x, y) for y, x in map(find_middle, parts)]


def widen(bounds: Bounds, factor: float, h: int, w: int) -> Bounds:
    """A box `factor` times as wide and as high, as far as the image of `h` by `w` pixels goes."""
    left, top, right, bottom = bounds
    across, down = (round((factor - 1) / 2 * length) for length in (right - left, bottom - top))
    return max(0, left - across), max(0, top - down), min(w, right + across), min(h, bottom + down)
