"""From maps on the patch grid to masks on the pixels of the picture."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ConceptAttentionError
from .maps import ConceptMaps, presence
from .recording import Grid
from .thresholds import level


def upsample(maps: Tensor, grid: Grid, size: tuple[int, int] | None = None) -> Tensor:
    """Maps `b c y x` smoothly on pixels, `b c h w`.

    Padding patches are cut off first, so nothing shifts; `size` (h, w) is the size of the picture
    where it differs from that of the grid.
    """
    size = size or grid.size or (grid.h, grid.w)
    y, x = grid.y * grid.patch, grid.x * grid.patch
    pixels = F.interpolate(maps, size=(y, x), mode="bilinear", align_corners=False)
    pixels = pixels[:, :, : grid.h, : grid.w]
    if size != (grid.h, grid.w):
        pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    # rounding can lift a value above the map's own highest, and then a map of one value has specks
    return pixels.clamp(maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True))


def draw(
    maps: ConceptMaps,
    names: list[str] | None = None,
    *,
    threshold: str = "mean",
    amount: float = 0.5,
    soft: bool = False,
    keep_absent: bool = False,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """One mask per concept, `c b h w`, float32, 0..1, for all shown concepts or for `names`.

    `threshold` and `amount` are those of `thresholds.THRESHOLDS`. A hard mask is exactly 0 or 1.
    A soft one runs from 0 at the map's lowest value through 0.5 at the level to 1 at its highest.
    The mask of a concept that the picture does not show is all zeros unless `keep_absent`.
    """
    wanted = maps.concepts.shown if names is None else [maps.concepts.find(n) for n in names]
    if not wanted:
        raise ConceptAttentionError(
            f"No concept was named. Recorded: {', '.join(maps.concepts.names)}."
        )
    shown = presence(maps)
    pixels = upsample(maps.maps, maps.grid, size)
    masks = torch.zeros(len(wanted), pixels.shape[0], *pixels.shape[2:])
    for row, c in enumerate(wanted):
        for b in range(len(pixels)):
            if keep_absent or shown[b][c].present:
                at = level(maps.maps[b, c], threshold, amount)
                masks[row, b] = _soft(pixels[b, c], at) if soft else pixels[b, c] > at
    return masks


def union(masks: Tensor) -> Tensor:
    """Several masks `c b h w` as one, `b h w`."""
    return masks.amax(dim=0)


def _soft(heat: Tensor, at: Tensor) -> Tensor:
    low, high = heat.min(), heat.max()
    if low == high:
        return (heat > at).to(heat)
    below = 0.5 * (heat - low) / (at - low).clamp_min(1e-12)
    above = 0.5 + 0.5 * (heat - at) / (high - at).clamp_min(1e-12)
    return torch.where(heat <= at, below, above).clamp(0, 1)
