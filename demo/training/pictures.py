"""Many scenes, drawn by several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from tqdm import tqdm

from ..scenes import lay_out, render, write_caption
from .close_ups import close_up, keep_shown, list_shown

UNCOLOURED_CAPTIONS = 0.3  # or "a balloon" alone would draw none where "a red balloon" does


@dataclass(frozen=True)
class Example:
    """A picture (uint8, h w 3), several captions of it, and the words it shows."""

    image: np.ndarray
    captions: tuple[str, ...]
    words: tuple[str, ...]


def draw_example(seed: int, pixels: int, captions: int, close_ups: float = 0.0) -> Example:
    """The picture of scene(seed), or a close-up of it; all captions but the first are complete."""
    rng = np.random.default_rng(seed)
    layout = lay_out(rng)
    if rng.random() < close_ups:
        layout = close_up(layout, rng)
    shown = list_shown(layout)
    named = keep_shown(layout, shown)
    texts = tuple(
        write_caption(named, rng, n > 0, coloured=rng.random() >= UNCOLOURED_CAPTIONS)
        for n in range(captions)
    )
    image, _ = render(layout, pixels)
    return Example(image, texts, shown)


def draw_examples(
    seeds: Sequence[int],
    pixels: int,
    captions: int = 1,
    workers: int = 2,
    close_ups: float = 0.0,
) -> Iterator[Example]:
    """One example per seed, in order, `pixels` wide and high."""
    draw = partial(draw_example, pixels=pixels, captions=captions, close_ups=close_ups)
    if workers < 2:
        yield from map(draw, seeds)
        return
    with get_context("forkserver").Pool(workers) as pool:
        yield from pool.imap(draw, seeds, chunksize=16)


def draw_pictures(seeds: Sequence[int], pixels: int, workers: int = 2) -> np.ndarray:
    """The pictures alone (uint8, n h w 3)."""
    pictures = np.empty((len(seeds), pixels, pixels, 3), np.uint8)
    examples = draw_examples(seeds, pixels, workers=workers)
    for place, example in zip(pictures, tqdm(examples, f"draw {pixels} px", len(seeds))):
        place[:] = example.image
    return pictures
