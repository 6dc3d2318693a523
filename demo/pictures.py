"""Many scenes, drawn by several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from tqdm import tqdm

from .scenes import lay_out, render, write_caption


@dataclass(frozen=True)
class Example:
    """A picture (uint8, h w 3), several captions of it, and the words it shows."""

    image: np.ndarray
    captions: tuple[str, ...]
    words: tuple[str, ...]


def draw_example(seed: int, pixels: int, captions: int) -> Example:
    """The picture of scene(seed); its caption is the first one, the others name everything."""
    rng = np.random.default_rng(seed)
    layout = lay_out(rng)
    texts = tuple(write_caption(layout, rng, complete=n > 0) for n in range(captions))
    image, masks = render(layout, pixels)
    return Example(image, texts, tuple(masks))


def draw_examples(
    seeds: Sequence[int], pixels: int, captions: int = 1, workers: int = 2
) -> Iterator[Example]:
    """One example per seed, in order, `pixels` wide and high."""
    draw = partial(draw_example, pixels=pixels, captions=captions)
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
