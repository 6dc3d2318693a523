"""Levels that split a map into inside and outside. To add one, write a function and list it.

Each takes one map `y x` and an amount (what the amount means stands in the docstring) and returns
a level: what is above it is inside.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import ConceptAttentionError


def fixed(heat: Tensor, amount: float) -> Tensor:
    """The amount itself, as a value of the map (0..1)."""
    return torch.as_tensor(amount).to(heat)


def mean(heat: Tensor, amount: float) -> Tensor:
    """The mean of the map: the rule of the paper's evaluation. The amount is not used."""
    return heat.mean().clamp(heat.min(), heat.max())  # rounding can leave a map of one value


def otsu(heat: Tensor, amount: float) -> Tensor:
    """The level that best splits the map into two groups (Otsu 1979). The amount is not used.

    Every value is tried as the split; kept is the one with the largest variance between groups.
    """
    values = heat.flatten().cpu().double().sort().values  # maps are small; no float64 on a Mac GPU
    if values[0] == values[-1]:
        return heat.max()
    below = torch.arange(1, len(values), dtype=values.dtype)
    above = len(values) - below
    sums = values.cumsum(0)
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    best = (below * above * apart**2).argmax()
    return ((values[best] + values[best + 1]) / 2).to(heat)


def top_area(heat: Tensor, amount: float) -> Tensor:
    """The level above which lies this share of the picture (0..1), strongest patches first."""
    return heat.flatten().float().quantile(1 - amount).to(heat)


THRESHOLDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean": mean,
    "otsu": otsu,
    "fixed": fixed,
    "top area": top_area,
}


def level(heat: Tensor, name: str, amount: float) -> Tensor:
    """The level that the named threshold gives for one map `y x`."""
    if name not in THRESHOLDS:
        raise ConceptAttentionError(
            f"Unknown threshold '{name}'. Accepted: {', '.join(THRESHOLDS)}."
        )
    if not 0 <= amount <= 1:
        raise ConceptAttentionError(f"The level must lie between 0 and 1, got {amount}.")
    return THRESHOLDS[name](heat, amount)
