"""Captions that a model refines before they meet the picture."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor


def refine(
    concepts: Tensor, lengths: Sequence[int], turns: Tensor, blocks: Iterable[Any]
) -> Tensor:
    """Concepts `1 t (head d)`, each refined by itself, as a caption of its own.

    Tokens of a caption see each other in there, so that concepts side by side would mix. `lengths`
    are those of the concepts, `turns` their places `1 1 t d/2 2 2`, and blocks are called with a
    caption, its mask, and its places.
    """
    refined = []
    placed = rearrange(turns, "b one t d i j -> b t one d i j").split(list(lengths), dim=1)
    for own, at in zip(concepts.split(list(lengths), dim=1), placed, strict=True):
        for block in blocks:
            own = block(own, None, at)
        refined.append(own)
    return torch.cat(refined, dim=1)
