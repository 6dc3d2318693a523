"""Sketches of latents: sums of the values of each cell, by which a latent is found again.

Every value is in one sum, with a random sign, so that a detail that was regenerated shows. They are
compared with the tolerance of a cast to bfloat16.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SKETCH = 1024  # sums kept of each cell
TOLERANCE = 2**-7  # of the largest sum: one rounding to bfloat16 and a little more


@dataclass(frozen=True)
class Sketch:
    """What is kept of the latent of one picture or one video."""

    shape: tuple[int, ...]
    """Of a cell, `c h w`."""
    sums: Tensor
    """`cell sum`: a picture has one cell, a video one for each place along time."""

    @classmethod
    def of(cls, latent: Tensor) -> "Sketch":
        """Sketch one latent without its batch axis, `c h w` or `c cell h w`."""
        cells = latent.detach().float()
        cells = cells.movedim(1, 0) if cells.ndim == 4 else cells[None]
        flat = rearrange(cells, "cell ... -> cell (...)")
        count = flat.shape[1]
        share = -(-count // SKETCH)
        signed = F.pad(flat * _signs(count).to(flat), (0, -count % share))
        sums = rearrange(signed, "cell (sum share) -> cell sum share", share=share).sum(2)
        return cls(tuple(cells.shape[1:]), sums.cpu())

    @property
    def cells(self) -> "list[Sketch]":
        """Each cell by itself."""
        return [replace(self, sums=one[None]) for one in self.sums]

    def distances(self, other: "Sketch") -> Tensor:
        """`cell other`: largest differences, in units of the largest sum of one's own cell.

        Infinite for cells of another shape. A run that failed to NaN is like no other.
        """
        if self.shape != other.shape:
            return torch.full((len(self.sums), len(other.sums)), math.inf)
        scale = self.sums.abs().amax(1).clamp_min(1e-12)
        rows = [(one - other.sums).abs().amax(1) for one in self.sums]
        return (torch.stack(rows) / scale[:, None]).nan_to_num(math.inf, posinf=math.inf)


@lru_cache(maxsize=2)
def _signs(count: int) -> Tensor:
    """The same random -1 and 1 every time."""
    return torch.randint(2, (count,), generator=torch.Generator().manual_seed(0)).char() * 2 - 1
