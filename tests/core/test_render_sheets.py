"""Label maps in colours, and sheets of blocks by steps."""

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.maps import ConceptMaps, ReadSpec, read_maps
from conceptattention.conceptattention_core.output import render
from conceptattention.conceptattention_core.output.render import draw_heat_map
from conceptattention.conceptattention_core.output.rendered import RenderedMaps
from conceptattention.conceptattention_core.recording import Grid
from PIL import ImageDraw

from .examples import recording, soft_maps, territories
from .render_common import PICTURE, SIXTY_FOUR, label_map, legend


def maps_of(scores: torch.Tensor, **how) -> ConceptMaps:
    return read_maps(recording(scores), ReadSpec(**how))


@pytest.mark.parametrize("image", [None, PICTURE])
def test_labels_are_flat_in_each_concepts_colour_with_the_legend_below(image):
    maps = soft_maps(names="sun")
    found = label_map(maps, 1, image)
    out = RenderedMaps(maps.of_image(1), image).label_map()
    assert out.dtype == np.uint8
    for c, flat in enumerate(
        (render.concept_colour(0), render.PAPER)
    ):  # the hidden background is pale
        assert (found == c).any()
        assert (out[:104][found == c] == flat).all()
    assert np.array_equal(out[104:], legend(maps, 1, 56))


def test_sixty_four_labels_have_their_numbers_and_colours():
    owners = np.random.default_rng(0).permutation(64).reshape(8, 8)
    maps = territories(owners.tolist(), SIXTY_FOUR, Grid.of_latent(16, 16))
    middles = slice(8, 128, 16)
    found = label_map(maps, 0)
    assert np.array_equal(found[middles, middles], owners)
    colours = RenderedMaps(maps).label_map()[:128][middles, middles]
    assert [tuple(rgb) for rgb in colours.reshape(-1, 3)] == [
        render.concept_colour(c) for c in owners.flatten()
    ]


def test_labels_follow_the_edges_of_the_picture():
    maps = territories([[0, 0, 1, 1]] * 4, "left, right", Grid.of_latent(8, 8))
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 27:] = [230, 200, 100]  # patches meet at 32
    found = label_map(maps, 0, picture)
    assert np.array_equal(found, np.broadcast_to(np.arange(64) >= 27, (64, 64)))


BRIGHT = draw_heat_map(torch.ones(1, 1), 0, 1)[0, 0]


def hot(step: int, block: int, steps: int = 4, blocks: int = 3, at=...) -> torch.Tensor:
    """Scores in which the sun is known in one step and block alone."""
    scores = torch.zeros(1, steps, blocks, 3, 2, 3)
    scores[0, step, block, 1][at] = 9
    return scores


def bright_box(view: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width, height of what is hot; all of it is."""
    rows, columns = np.nonzero((view == BRIGHT).all(-1))
    left, top = columns.min(), rows.min()
    w, h = columns.max() + 1 - left, rows.max() + 1 - top
    assert len(rows) == w * h
    return left, top, w, h


@pytest.mark.parametrize("tile", [32, 96])
def test_tiles_stand_in_rows_of_blocks_and_columns_of_steps(tile):
    boxes = {
        (step, block): bright_box(
            render.draw_blocks_by_steps(maps_of(hot(step, block)), "SUN", 0, tile=tile)
        )
        for step in range(4)
        for block in range(3)
    }
    left, top, w, h = boxes[0, 0]
    assert (w, h) == (tile, round(tile * 2 / 3))
    across, down = boxes[1, 0][0] - left, boxes[0, 1][1] - top
    assert across > w and down > h  # a gap between them
    for (step, block), box in boxes.items():
        assert box == (left + step * across, top + block * down, w, h)


def test_a_tile_is_the_map_the_right_way_up():
    whole = bright_box(render.draw_blocks_by_steps(maps_of(hot(1, 1)), "sun", 0))
    corner = hot(1, 1, at=(0, 2))  # top right of 2 by 3 patches
    left, top, w, h = bright_box(render.draw_blocks_by_steps(maps_of(corner), "sun", 0))
    assert (left, top) == (whole[0] + 64, whole[1])
    assert (w, h) == (32, 32)


def test_tiles_share_one_scale_and_another_concept_has_its_own_sheet():
    scores = hot(0, 0) + hot(1, 0) / 9
    view = render.draw_blocks_by_steps(maps_of(scores), "sun", 0)
    left, top, w, h = bright_box(view)
    weaker = view[top + h // 2, left + w + 3 + w // 2]
    dark = view[top + h // 2, left + 3 * (w + 3) + w // 2]
    assert BRIGHT.sum() > weaker.sum() > dark.sum()
    flat = view[top : top + h, left : left + w]
    assert (flat == BRIGHT).all()
    other = render.draw_blocks_by_steps(maps_of(scores), "balloon", 0)
    assert (other[top + h // 2, left + w // 2] != BRIGHT).any()


def test_concepts_compete_in_each_tile_at_the_temperature_asked_for():
    scores = hot(0, 0) / 3 + hot(1, 0) / 9
    views = [
        render.draw_blocks_by_steps(maps_of(scores, temperature=t), "sun", 0) for t in (1.0, 3.0)
    ]
    heats = [(scores / t).softmax(3)[0, :, 0, 1, 0, 0] for t in (1.0, 3.0)]
    left, top, w, h = bright_box(views[0])
    for view, (first, second, none, _) in zip(views, heats):
        expected = draw_heat_map(second.view(1, 1), none.item(), first.item())[0, 0]
        assert (view[top + h // 2, left + w + 3 + w // 2] == expected).all()
    assert not np.array_equal(*views)


def test_twenty_of_more_steps_and_blocks_are_shown_with_both_ends():
    found = {}
    for steps, blocks in ((20, 20), (28, 57)):
        views = [
            render.draw_blocks_by_steps(maps_of(hot(*at, steps, blocks)), "sun", 0, tile=24)
            for at in ((0, 0), (steps - 1, blocks - 1))
        ]
        found[steps] = [(view.shape, bright_box(view)) for view in views]
    assert found[20] == found[28]


def test_rows_and_columns_are_called_by_the_models_numbers(monkeypatch):
    written = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda pen, at, text, *_, **__: written.append(text)
    )
    scores = hot(0, 0, steps=3, blocks=2)
    heard = recording(scores, steps=((0, 0), (1, 4), (7, 7)), blocks=(10, 18))
    render.draw_blocks_by_steps(read_maps(heard), "sun", 0)
    assert written == ["block 10", "block 18", "step 0", "1-4", "step 7"]


def test_blocks_that_all_say_the_same_make_a_sheet():
    view = render.draw_blocks_by_steps(maps_of(torch.zeros(1, 2, 2, 3, 2, 3)), "sun", 0)
    assert view.dtype == np.uint8 and (view != render.PAPER).any()


def test_a_sheet_of_an_unknown_concept_is_refused():
    with pytest.raises(ConceptAttentionError, match="named 'moon'. Recorded: balloon, sun, red"):
        render.draw_blocks_by_steps(maps_of(hot(0, 0)), "moon", 0)
