"""From maps on the patch grid to masks on the pixels of the image."""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from . import ConceptAttentionError, refine
from .maps import ConceptMaps, measure_presence
from .recording import NOT_FINITE, Grid, is_finite
from .thresholds import Heat, find_level

MOST_PIXELS = 1024
"""By which masks grow or are feathered."""


@dataclass(frozen=True)
class MaskSpec:
    """How a map becomes a mask; the steps come in this order."""

    edges: bool = True
    """Let maps follow the edges of the image, where there is one."""
    radius: int = 0
    """How far an edge is looked for, in pixels of the image. 0: about a patch."""
    smoothness: float = refine.SMOOTHNESS
    """Variance of colour (0..1, squared) below which the image counts as flat."""
    threshold: str = "mean"
    amount: float = 0.5
    """Those of `thresholds.THRESHOLDS`."""
    soft: bool = False
    """Gradual: 0 at the map's lowest value, 0.5 at the level, 1 at its highest; else 0 or 1."""
    contrast: float = 1.0
    """Of soft masks: above 1 is steeper at the level, below 1 flatter. 0, 0.5 and 1 stay."""
    keep_absent: bool = False
    """Draw concepts that the image does not show, too; else their masks are all zeros."""
    holes: bool = False
    """Fill what a mask encloses."""
    islands: float = 0.0
    """Drop parts smaller than this share of the image, 0..1."""
    largest: bool = False
    """Keep only the largest part."""
    grow: int = 0
    """Pixels by which a mask becomes larger on every side, or smaller if negative."""
    feather: int = 0
    """Pixels to each side of an edge over which it is softened."""

    def __post_init__(self):
        if self.radius < 0:
            raise ConceptAttentionError(f"A radius is 0 pixels or more, got {self.radius}.")
        if not 0 < self.smoothness < math.inf:
            raise ConceptAttentionError(
                f"The smoothness must be above 0 and finite, got {self.smoothness}."
            )
        if not 0 < self.contrast < math.inf:
            raise ConceptAttentionError(
                f"The contrast must be above 0 and finite, got {self.contrast}."
            )
        if not 0 <= self.islands <= 1:
            raise ConceptAttentionError(
                f"The least part of the picture must lie between 0 and 1, got {self.islands}."
            )
        if not abs(self.grow) <= MOST_PIXELS:
            raise ConceptAttentionError(
                f"A mask grows by {-MOST_PIXELS} to {MOST_PIXELS} pixels, got {self.grow}."
            )
        if not 0 <= self.feather <= MOST_PIXELS:
            raise ConceptAttentionError(
                f"A feather is 0 pixels or more, at most {MOST_PIXELS}, got {self.feather}."
            )


DEFAULTS = MaskSpec()


def shape_notice(grid: Grid, height: int, width: int) -> str | None:
    """A sentence for the user where an image of this size cannot be the one that was recorded.

    Images of its shape can, up to a pixel of rounding, and those that were less than half a
    patch larger or smaller before they were cut to whole cells of the latent.
    """
    recorded = grid.size or (grid.h, grid.w)
    sides = list(zip((height, width), recorded))
    if all(abs(found - own) < grid.patch / 2 for found, own in sides):
        return None
    if max((n - 1) / own for n, own in sides) <= min((n + 1) / own for n, own in sides):
        return None
    return (
        f"The picture is {height} x {width}, the recording was of {recorded[0]} x {recorded[1]}: "
        "the masks are stretched. Crop or pad the masks instead of the picture."
    )


def check_images(maps: ConceptMaps, image: Tensor | None) -> list[str]:
    """An error unless the images are as many as the maps belong to; notices of what is amiss."""
    if image is None:
        return []
    if len(image) != len(maps):
        raise ConceptAttentionError(
            f"The image batch has {len(image)} pictures, the maps belong to {len(maps)}. "
            "Connect the picture decoded from the recorded latent."
        )
    notice = shape_notice(maps.grid, *image.shape[1:3])
    return [notice] if notice else []


def upsample(maps: Tensor, grid: Grid, size: tuple[int, int] | None = None) -> Tensor:
    """Maps `b c y x` smoothly on pixels, `b c h w`.

    Padding patches are cut off first, so nothing shifts; `size` (h, w) is the size of the image
    where it differs from that of the grid.
    """
    size = size or grid.size or (grid.h, grid.w)
    # one after another: torch takes another kernel for three planes, which rounds otherwise
    return torch.cat([_upsample_one(one, grid, size) for one in maps.split(1, dim=1)], dim=1)


def _upsample_one(maps: Tensor, grid: Grid, size: tuple[int, int]) -> Tensor:
    y, x = grid.y * grid.patch, grid.x * grid.patch
    pixels = F.interpolate(maps, size=(y, x), mode="bilinear", align_corners=False)
    pixels = pixels[:, :, : grid.h, : grid.w]
    if size != (grid.h, grid.w):
        pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    return _clamp(pixels, maps)


def sharpen(maps: ConceptMaps, image: Tensor, spec: MaskSpec = MaskSpec()) -> Tensor:
    """The maps on the pixels of their images `b h w rgb`, 0..1, with its edges: `b c h w`.

    Of `spec` the radius and the smoothness count.
    """
    size = (image.shape[1], image.shape[2])
    planes = (upsample(one, maps.grid, size) for one in maps.maps.split(1, dim=1))
    return _follow(planes, maps, image, spec)


def follow_image(pixels: Tensor, maps: ConceptMaps, image: Tensor, spec: MaskSpec) -> Tensor:
    """Maps that are on pixels `b c h w` already, with the edges of their images `b h w rgb`."""
    return _follow(pixels.split(1, dim=1), maps, image, spec)


def _follow(planes: Iterable[Tensor], maps: ConceptMaps, image: Tensor, spec: MaskSpec) -> Tensor:
    """The same of one concept after another, `b 1 h w` each: a large image bounds the memory."""
    if not is_finite(image):
        raise ConceptAttentionError(f"The image holds {NOT_FINITE}: it has no edges to follow.")
    guide = rearrange(image[..., :3], "b h w rgb -> b rgb h w").to(maps.maps)
    guide = guide.clone(memory_format=torch.contiguous_format).clamp_(0, 1)
    # a patch covers more pixels in an image that the model saw in a smaller size
    radius = spec.radius or round(refine.RADIUS * max(1.0, image.shape[1] / maps.grid.h))
    sharp = refine.follow_edges_one_by_one(planes, guide, radius, spec.smoothness)
    return _clamp(sharp, maps.maps)


def draw_masks(
    maps: ConceptMaps,
    names: list[str] | None = None,
    spec: MaskSpec = MaskSpec(),
    *,
    size: tuple[int, int] | None = None,
    image: Tensor | None = None,
) -> Tensor:
    """One mask per concept, `c b h w`, float32, 0..1, for all shown concepts or for `names`.

    With the images `image` (b h w rgb, 0..1) masks have their size, else `size` (h, w), else
    what the latent decodes to. Images of another shape than the recorded ones are warned of
    (`shape_notice`). Hard masks are exactly 0 or 1 before they are feathered.
    """
    wanted = maps.concepts.shown if names is None else [maps.concepts.index_of(n) for n in names]
    if not wanted:
        raise ConceptAttentionError(
            f"No concept was named. Recorded: {', '.join(maps.concepts.names)}."
        )
    if image is not None and (notice := shape_notice(maps.grid, *image.shape[1:3])):
        warnings.warn(notice, stacklevel=2)
    if image is not None and spec.edges:
        pixels = sharpen(maps, image, spec)
    else:
        size = size if image is None else (image.shape[1], image.shape[2])
        pixels = upsample(maps.maps, maps.grid, size)
    if not is_finite(pixels):
        raise ConceptAttentionError(f"The maps hold {NOT_FINITE}: no mask can be drawn.")
    presence = measure_presence(maps)
    masks = torch.zeros(len(wanted), pixels.shape[0], *pixels.shape[2:])
    for row, c in enumerate(wanted):
        for b in range(len(pixels)):
            masks[row, b] = draw_mask(maps.maps[b], pixels[b], c, spec, presence[b][c].present)
    return masks


def draw_mask(maps: Tensor, pixels: Tensor, c: int, spec: MaskSpec, present: bool) -> Tensor:
    """The mask `h w`, float32, of concept `c` from the maps of an image, `c y x` and `c h w`.

    `present`: whether the image shows the concept. If not, the mask is all zeros, unless the spec
    keeps absent concepts or its masks tile the image: each pixel stays with whom it was won by.
    """
    if not (present or spec.keep_absent or spec.threshold == "competition"):
        return torch.zeros(pixels.shape[1:])
    heat = Heat(maps[c], pixels[c], rival=lambda: _find_rival(pixels, c))
    at = find_level(heat, spec.threshold, spec.amount)
    if spec.soft:
        mask = _contrast(_soft(pixels[c], at), spec.contrast)
    else:
        mask = pixels[c] > at
    return finish_mask(mask, spec).float()


def union(masks: Tensor) -> Tensor:
    """Several masks `c b h w` as one, `b h w`."""
    return masks.amax(dim=0)


def finish_mask(mask: Tensor, spec: MaskSpec) -> Tensor:
    """The shape of a mask `h w` put right: holes, islands, largest part, size, feather.

    A hard one is of bool. What comes out has the same values as numbers of whatever kind.
    """
    shape = mask.cpu().numpy()
    if mask.dtype == torch.bool:
        shape = shape.view(np.uint8)
    if spec.holes:
        shape = refine.fill_holes(shape)
    if spec.largest:  # both steps at once
        shape = refine.keep_largest(shape, spec.islands)
    elif spec.islands > 0:
        shape = refine.drop_islands(shape, spec.islands)
    if spec.grow:
        shape = refine.grow(shape, spec.grow)
    return torch.from_numpy(refine.feather(shape, spec.feather))


def split_masks(masks: Tensor, least: float = 0.0) -> Tensor:
    """The parts of masks `b h w`, each by itself: `n b h w`, the largest of each image first.

    Parts below `least` of the image (0..1) are left out; images with fewer get zeros.
    """
    parts = [refine.split_parts(mask.cpu().float().numpy(), least) for mask in masks]
    out = torch.zeros(max(1, *map(len, parts)), *masks.shape)
    for b, own in enumerate(parts):
        for n, part in enumerate(own):
            out[n, b] = torch.from_numpy(part)
    return out


def _find_rival(pixels: Tensor, c: int) -> Tensor:
    """The strongest of the other concepts `h w`. Of equals the first one wins, as in `argmax`."""
    before, after = pixels[:c], pixels[c + 1 :]
    lowest = pixels.new_full((1, *pixels.shape[1:]), -1.0)
    strongest = torch.cat([lowest, before]).amax(0)
    if len(after):
        next_below = torch.nextafter(after.amax(0), lowest[0])
        strongest = torch.maximum(strongest, next_below)
    return strongest


def _soft(heat: Tensor, at: Tensor) -> Tensor:
    low, high = heat.min(), heat.max()
    if low == high:
        return (heat > at).to(heat)
    below = 0.5 * (heat - low) / (at - low).clamp_min(1e-12)
    above = 0.5 + 0.5 * (heat - at) / (high - at).clamp_min(1e-12)
    return torch.where(heat <= at, below, above).clamp(0, 1)


def _contrast(mask: Tensor, contrast: float) -> Tensor:
    if contrast == 1:
        return mask
    # m^c / (m^c + (1 - m)^c), which is 0 / 0 where both powers are too small for a number
    steeper = (contrast * (mask.log() - (-mask).log1p())).sigmoid()
    return torch.where((mask > 0) & (mask < 1), steeper, mask)


def _clamp(pixels: Tensor, maps: Tensor) -> Tensor:
    """No value beyond the map's own, else a map of one value has specks by rounding. In place."""
    return pixels.clamp_(maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True))
