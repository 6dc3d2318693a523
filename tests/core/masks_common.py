"""What several tests of this folder share."""

import torch


def bounds(mask: torch.Tensor) -> list[int]:
    """Top, bottom, left, right of a mask `h w`; bottom and right lie just outside."""
    y, x = mask.nonzero(as_tuple=True)
    return [y.min().item(), y.max().item() + 1, x.min().item(), x.max().item() + 1]
