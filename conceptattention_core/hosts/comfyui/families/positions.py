"""Rotary positions, and the places of concepts in families that number their text."""

from collections.abc import Iterable

import torch
from einops import einsum, rearrange
from torch import Tensor


def place(heads: Tensor, turns: Tensor) -> Tensor:
    """Queries or keys `b head n d` at their positions; `turns` are b 1 n d/2 2 2."""
    pairs = rearrange(heads, "b head n (d two) -> b head n d two", two=2).float()
    turned = einsum(turns.to(pairs), pairs, "b one n d i j, b head n d j -> b head n d i")
    return rearrange(turned, "b head n d two -> b head n (d two)").to(heads)


def unplace(heads: Tensor, turns: Tensor) -> Tensor:
    """Queries or keys as they were before positions: a rotation is undone by its transpose."""
    return place(heads, rearrange(turns, "b one n d i j -> b one n d j i"))


def in_pairs(heads: Tensor) -> Tensor:
    """Heads whose first half is turned with their second, with each pair side by side."""
    return rearrange(heads, "b head n (two d) -> b head n (d two)", two=2)


def in_halves(heads: Tensor) -> Tensor:
    """The other way about."""
    return rearrange(heads, "b head n (d two) -> b head n (two d)", two=2)


def turns_of_waves(cosine: Tensor, sine: Tensor) -> Tensor:
    """Positions `1 1 n d/2 2 2` of cosines and sines `n d`, each told twice in a row."""
    cosine, sine = cosine[:, ::2], sine[:, ::2]
    turns = torch.stack([cosine, -sine, sine, cosine], dim=-1)
    return rearrange(turns, "n d (i j) -> 1 1 n d i j", i=2)


def with_column(rows: Tensor, numbers: Iterable[int]) -> Tensor:
    """Rows `t n` and one more column, in which each has a number.

    Rows of concepts are gathered, chosen and moved about as one tensor; so their numbers come
    along.
    """
    column = torch.tensor(list(numbers), dtype=torch.float32, device=rows.device)
    return torch.cat([rows.float(), column[:, None]], dim=1)


def numbered(rows: Iterable[Tensor]) -> list[Tensor]:
    """Rows `t n` of each concept and one more column: by its number it is told `apart` again."""
    return [with_column(own, [number] * len(own)) for number, own in enumerate(rows)]


def apart(rows: Tensor) -> tuple[Tensor, list[int]]:
    """Rows without the column of `numbered`, and how many each concept has, one after another."""
    _, counts = rows[:, -1].unique_consecutive(return_counts=True)
    return rows[:, :-1], counts.tolist()


def places_of(rows: Tensor, text: int) -> tuple[Tensor, Tensor]:
    """Rows without their last column, and the places `t` that it gives in a text of this length.

    A concept stands where it would stand as the prompt; in a text that is shorter than its
    template, at the start.
    """
    return rows[:, :-1], (text + rows[:, -1].long()).clamp_min(0)


def turns_of(rows: Tensor, positions: Tensor, text: int) -> tuple[Tensor, Tensor]:
    """Rows without their last column, and the turns `1 1 t d/2 2 2` of these places.

    `positions` are b 1 (t p) d/2 2 2, those of `text` tokens first.
    """
    rows, at = places_of(rows, text)
    return rows, positions[:1, :, at.to(positions.device)]
