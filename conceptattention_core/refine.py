"""Masks that need no repair: edges that follow the image's, and plain shapes.

Edges: the guided filter (He et al., PAMI 2013) in its fast form (He and Sun, arXiv 1505.00996).
Within a window a map is replaced by the linear function of the image's colours that fits it
best, so it changes where the image does.
"""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 16
"""Pixels from the middle of a window to its side; Flux's patches are 16 wide."""
SMOOTHNESS = 1e-3
"""Variance of colour (0..1, squared) below which a window counts as flat."""
LEAST, MOST = 1e-7, 1e6
"""Smoothness between which float32 can compute with it: finer is rounding, coarser is flat."""


def follow_edges(
    maps: Tensor, image: Tensor, radius: int = RADIUS, smoothness: float = SMOOTHNESS
) -> Tensor:
    """Maps `b c h w` with the edges of their images `b rgb h w`, 0..1.

    Maps that sum to 1 at each pixel still do. A smoothness beyond LEAST and MOST counts as these.
    """
    return follow_edges_one_by_one(maps.split(1, dim=1), image, radius, smoothness)


def follow_edges_one_by_one(
    planes: Iterable[Tensor], image: Tensor, radius: int = RADIUS, smoothness: float = SMOOTHNESS
) -> Tensor:
    """The same of maps `b 1 h w` that come one by one: of large pictures all are much memory."""
    smoothness = min(max(smoothness, LEAST), MOST)
    stride = max(1, radius // 4)  # windows are far larger than a pixel: what they say is smooth
    h, w = image.shape[-2:]
    small = (-(-h // stride), -(-w // stride))
    image = image.float().contiguous()
    guide = F.interpolate(image, size=small, mode="area")
    heat = torch.cat([F.interpolate(x.float(), size=small, mode="area") for x in planes], dim=1)
    slopes, offsets = _fit(guide, heat, max(1, round(radius / stride)), smoothness)
    sharp = torch.empty(len(image), heat.shape[1], h, w, device=image.device)
    for c in range(heat.shape[1]):

        def enlarge(line: Tensor) -> Tensor:
            return F.interpolate(line[:, None], size=(h, w), mode="bilinear", align_corners=False)

        sharp[:, c] = enlarge(offsets[:, c])[:, 0]
        for colour in range(3):
            sharp[:, c].addcmul_(enlarge(slopes[:, c, colour])[:, 0], image[:, colour])
    return sharp


def _fit(guide: Tensor, heat: Tensor, radius: int, eps: float) -> tuple[Tensor, Tensor]:
    """The linear function of colour that fits each map best around each pixel.

    From `b rgb h w` and `b c h w` to slopes `b c rgb h w` and offsets `b c h w`.
    """
    mean_guide, mean_heat = _box(guide, radius), _box(heat, radius)
    products = guide[:, :, None] * guide[:, None]
    spread = _box(products.flatten(1, 2), radius).unflatten(1, (3, 3))
    spread = spread - mean_guide[:, :, None] * mean_guide[:, None]
    together = heat[:, :, None] * guide[:, None]  # b c rgb h w
    together = _box(together.flatten(1, 2), radius).unflatten(1, together.shape[1:3])
    together = together - mean_heat[:, :, None] * mean_guide[:, None]
    spread = spread + eps * torch.eye(3, device=spread.device)[:, :, None, None]
    slopes = torch.einsum("b i j h w, b c j h w -> b c i h w", _invert(spread, eps), together)
    offsets = mean_heat - (slopes * mean_guide[:, None]).sum(2)
    smooth = _box(torch.cat([slopes.flatten(1, 2), offsets], dim=1), radius)
    count = heat.shape[1]
    return smooth[:, : 3 * count].unflatten(1, (count, 3)), smooth[:, 3 * count :]


def _box(planes: Tensor, radius: int) -> Tensor:
    """The mean over windows of `2 radius + 1` pixels, cut off at the sides of the image."""
    side = 2 * radius + 1
    planes = planes.contiguous(memory_format=torch.channels_last)  # pooled 8 times as fast
    rows = F.avg_pool2d(planes, (side, 1), 1, (radius, 0), count_include_pad=False)
    boxes = F.avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)
    return boxes.contiguous()


def _invert(matrices: Tensor, least: float) -> Tensor:
    """Symmetric matrices `b 3 3 h w`, inverted by cross products of their rows.

    `least` is the smallest of their eigenvalues, by which rounding cannot divide by 0.
    """
    first, second, third = matrices.unbind(1)
    columns = [
        torch.linalg.cross(second, third, dim=1),
        torch.linalg.cross(third, first, dim=1),
        torch.linalg.cross(first, second, dim=1),
    ]
    determinant = (first * columns[0]).sum(1).clamp_min(least**3)
    return torch.stack(columns, dim=1) / determinant[:, None, None]


# --- shapes ---------------------------------------------------------------------------------------
# Each takes and gives a mask `h w`: a hard one as uint8, 0 or 1, which is several times as fast, or
# any as float32, 0..1. Inside is above a half, so soft masks work, too.


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """What is enclosed by the mask becomes part of it. At the image's sides nothing is."""
    enclosed = np.pad(1 - _inside(mask), 1, constant_values=1)
    cv2.floodFill(enclosed, None, (0, 0), (0,), flags=4)  # from outside of the image
    return np.where(enclosed[1:-1, 1:-1], mask.dtype.type(1), mask)


def drop_islands(mask: np.ndarray, least: float) -> np.ndarray:
    """Without the parts that are smaller than this share (0..1) of the image."""
    parts, areas = _find_parts(mask)
    return _keep(mask, parts, areas >= least * mask.size)


def keep_largest(mask: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Only the largest of the parts that hang together, if it is not smaller than `least`."""
    parts, areas = _find_parts(mask)
    is_largest = np.arange(len(areas)) == areas.argmax()
    return _keep(mask, parts, is_largest & (areas >= least * mask.size))


def split_parts(mask: np.ndarray, least: float = 0.0) -> list[np.ndarray]:
    """Each part by itself, the largest first, those below `least` of the image left out."""
    parts, areas = _find_parts(mask)
    order = [
        index
        for index in np.argsort(-areas, kind="stable")
        if areas[index] >= max(1, least * mask.size)
    ]
    return [_keep(mask, parts, np.arange(len(areas)) == index) for index in order]


def find_middle(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of a pixel inside, as far as can be from outside and the image's sides."""
    depth = cv2.distanceTransform(np.pad(_inside(mask), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Larger by this many pixels on every side, or smaller if negative."""
    change = cv2.dilate if pixels > 0 else cv2.erode
    for radius in _cut(abs(pixels)):
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        mask = change(mask, disc)
    return mask


def feather(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Soft over this many pixels to each side of an edge; what is farther away stays exact."""
    if pixels <= 0:
        return mask
    side, mask = 2 * pixels + 1, mask.astype(np.float32)
    soft = cv2.GaussianBlur(mask, (side, side), pixels / 2, borderType=cv2.BORDER_REPLICATE)
    np.copyto(soft, 1, where=soft > 1 - 1e-5)
    return soft


def _cut(pixels: int, most: int = 8) -> Iterator[int]:
    """A large disc as several small ones after each other: the same shape in far less time."""
    while pixels > 0:
        yield min(pixels, most)
        pixels -= most


def _inside(mask: np.ndarray) -> np.ndarray:
    return mask if mask.dtype == np.uint8 else (mask > 0.5).astype(np.uint8)


def _find_parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each pixel's part and the area of each part in pixels. Part 0 lies outside."""
    count, parts = cv2.connectedComponents(_inside(mask), connectivity=8)
    areas = np.bincount(parts.ravel(), minlength=count)
    areas[0] = 0
    return parts, areas


def _keep(mask: np.ndarray, parts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The mask without the parts that are not `kept`, nor the soft pixels nearest to those."""
    if kept[1:].all():
        return mask
    if not kept[1:].any():
        return np.zeros_like(mask)
    kept[0] = False
    inside = kept.take(parts)
    nothing = mask.dtype.type(0)
    if mask.dtype == np.uint8 or not mask[parts == 0].any():  # no soft pixels to give away
        return np.where(inside, mask, nothing)
    lost = (parts > 0) & ~inside
    near, far = (
        cv2.distanceTransform((~part).astype(np.uint8), cv2.DIST_L2, 5) for part in (inside, lost)
    )
    return np.where(near <= far, mask, nothing)
