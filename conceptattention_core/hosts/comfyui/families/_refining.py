"""Captions that a model refines before they meet the image."""

from collections.abc import Iterable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ....rotary import Rotary
from ....tokens import ConceptTokens


def refine(
    concepts: Tensor, tokens: ConceptTokens, rotary: Rotary, blocks: Iterable[Any]
) -> Tensor:
    """Concepts `1 t (head d)`, each refined by itself, as a caption of its own.

    Tokens of a caption see each other in there, so that concepts side by side would mix. `rotary`
    is where their tokens stand; `blocks` are called with a caption, its mask, and its places.
    """
    refined = []
    places = rearrange(rotary.matrices, "b one t d i j -> b t one d i j")
    parts = (x.split(tokens.counts, dim=1) for x in (concepts, places))
    for own, at in zip(*parts, strict=True):
        for block in blocks:
            own = block(own, None, at)
        refined.append(own)
    return torch.cat(refined, dim=1)
