"""Levels that split a map into inside and outside. To add one, write a function and list it.

Each takes the heat of one concept and an amount (what the amount means stands in the docstring)
and returns a level, one for the image or one for each pixel: what is above it is inside.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from . import ConceptAttentionError


@dataclass(frozen=True)
class Heat:
    """The map of one concept in one image."""

    patches: Tensor  # y x
    pixels: Tensor  # h w, the same where the mask is drawn
    rival: Callable[[], Tensor]
    """The strongest other concept at each pixel, `h w`; a hair less where a tie is ours."""

    @classmethod
    def alone(cls, patches: Tensor) -> "Heat":
        """A map without pixels of its own and without others beside it."""
        return cls(patches, patches, lambda: torch.full_like(patches, -torch.inf))


def fixed(heat: Heat, amount: float) -> Tensor:
    """The amount itself, as a value of the map (0..1)."""
    return torch.as_tensor(amount).to(heat.patches)


def mean(heat: Heat, amount: float) -> Tensor:
    """The mean of the map: the rule of the paper's evaluation. The amount is not used."""
    values = heat.patches
    return values.mean().clamp(values.min(), values.max())  # rounding can leave a map of one value


def otsu(heat: Heat, amount: float) -> Tensor:
    """The level that best splits the map into two groups (Otsu 1979). The amount is not used.

    Every value is tried as the split; kept is the one with the largest variance between groups.
    """
    # maps are small; no float64 on a Mac GPU
    values = heat.patches.flatten().cpu().double().sort().values
    if values[0] == values[-1]:
        return heat.patches.max()
    below = torch.arange(1, len(values), dtype=values.dtype)
    above = len(values) - below
    sums = values.cumsum(0)
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    best = (below * above * apart**2).argmax()
    return ((values[best] + values[best + 1]) / 2).to(heat.patches)


def top_area(heat: Heat, amount: float) -> Tensor:
    """The level above which lies this share of the image (0..1), strongest pixels first.

    Counted on the pixels that are cut. Equal ones are in or out together, whichever is nearer.
    """
    values = heat.pixels.flatten().cpu().float().numpy()
    wanted = round(amount * values.size)
    last_out = max(0, values.size - wanted - 1)
    at = np.partition(values, last_out)[last_out]
    above, equal = (values > at).sum(), (values == at).sum()
    if equal < values.size and above + equal - wanted < wanted - above:
        at = np.nextafter(at, np.float32(-1))
    return torch.as_tensor(at).to(heat.pixels)


def hysteresis(heat: Heat, amount: float) -> Tensor:
    """Otsu's level, and a lower one for what hangs together with something above it (Canny 1986).

    The amount says how far down from Otsu's level to the mean the lower one lies (0..1).
    """
    high = otsu(heat, amount)
    low = high - amount * (high - mean(heat, amount)).clamp_min(0)
    candidates = (heat.pixels > low).cpu().numpy()
    count, found = cv2.connectedComponents(candidates.astype(np.uint8), connectivity=8)
    parts = found.astype(np.intp)
    sure = np.zeros(count, bool)
    sure[parts[(heat.pixels > high).cpu().numpy()]] = True
    sure[0] = False  # part 0 is what lies outside
    grown = torch.from_numpy(sure[parts]).to(heat.pixels.device)
    return torch.where(grown, low, high).to(heat.pixels)


def competition(heat: Heat, amount: float) -> Tensor:
    """At each pixel what the strongest other concept has there, the hidden background included:
    masks tile the image, without overlap and without gap. The amount is not used.
    """
    return heat.rival()


THRESHOLDS: dict[str, Callable[[Heat, float], Tensor]] = {
    "mean": mean,
    "otsu": otsu,
    "fixed": fixed,
    "top area": top_area,
    "hysteresis": hysteresis,
    "competition": competition,
}


def find_level(heat: Heat, name: str, amount: float) -> Tensor:
    """The level that the named threshold gives: a scalar, or `h w`."""
    if name not in THRESHOLDS:
        raise ConceptAttentionError(
            f"Unknown threshold '{name}'. Accepted: {', '.join(THRESHOLDS)}."
        )
    if not 0 <= amount <= 1:
        raise ConceptAttentionError(f"The level must lie between 0 and 1, got {amount}.")
    return THRESHOLDS[name](heat, amount)
