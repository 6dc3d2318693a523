"""Close-ups: the thing is shown whole, and captions name only what the window shows."""

import numpy as np
import pytest

from demo.scenes import COLOURS, GROUNDS, WORDS, lay_out, render, write_caption
from demo.training.close_ups import LEAST_SHARE, close_up, keep_shown, list_shown
from demo.training.pictures import draw_example

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_window_lies_in_the_layout_and_shows_one_thing_whole(seed):
    rng = np.random.default_rng(seed)
    layout = lay_out(rng)
    closer = close_up(layout, rng)
    before, after = layout.things[0].shapes[0].points, closer.things[0].shapes[0].points
    side = np.ptp(before[:, 0]) / np.ptp(after[:, 0])
    corner = before[0] - side * after[0]
    assert side <= 1 + 1e-9
    assert (corner > -1e-9).all()
    assert (corner + side < 1 + 1e-9).all()
    whole = []
    for thing in layout.things:
        if thing.word not in GROUNDS:
            box = np.concatenate([shape.points for shape in thing.shapes]).clip(0, 1)
            whole.append(
                ((box - corner) / side > -1e-9).all() and ((box - corner) / side < 1 + 1e-9).all()
            )
    assert any(whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_captions_of_close_ups_name_all_that_is_shown_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    layout = close_up(lay_out(rng), rng)
    shown = list_shown(layout)
    _, masks = render(layout, 64)
    assert set(shown) == {word for word, mask in masks.items() if mask.mean() >= LEAST_SHARE}
    caption = write_caption(keep_shown(layout, shown), rng, complete=True)
    for word in set(WORDS) - set(shown):
        assert word not in caption.replace(",", " ").split(), caption


def test_captions_without_colours_name_none():
    layouts = [lay_out(np.random.default_rng(seed)) for seed in SEEDS]
    for layout in layouts:
        caption = write_caption(layout, np.random.default_rng(0), complete=True, coloured=False)
        assert not set(COLOURS) & set(caption.replace(",", " ").split())


def test_some_pictures_of_things_have_captions_without_their_colour():
    texts = [draw_example(seed, 64, 4).captions for seed in range(30)]
    plain = [not set(COLOURS) & set(" ".join(t).replace(",", " ").split()) for t in texts]
    assert not all(plain)
    assert any("balloon" in one and not set(COLOURS) & set(one.split()) for t in texts for one in t)
