"""Shapes put right: what each step promises about any mask."""

import numpy as np
import pytest
from conceptattention.conceptattention_core import refine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

SHAPES = st.tuples(st.integers(1, 23), st.integers(1, 29))
MASKS = arrays(np.bool_, SHAPES).map(lambda inside: inside.astype(np.float32))
SOFT = arrays(np.float32, SHAPES, elements=st.floats(0, 1, width=32))


def picture(text: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in text.split()], np.float32)


def distances(mask: np.ndarray, value: float) -> np.ndarray:
    """How far each pixel is from the nearest one of this value, in pixels."""
    y, x = np.nonzero(mask == value)
    if not len(y):
        return np.full(mask.shape, np.inf)
    rows, columns = np.indices(mask.shape)
    return np.sqrt((rows[..., None] - y) ** 2 + (columns[..., None] - x) ** 2).min(-1)


def test_holes_are_filled_and_bays_are_not():
    ring = picture("####. #..#. ####. ####.")
    assert np.array_equal(refine.fill_holes(ring), picture("####. ####. ####. ####."))
    bay = picture("#.## #..# ####")
    assert np.array_equal(refine.fill_holes(bay), bay)
    at_the_side = picture("###. ...# ###.")
    assert np.array_equal(refine.fill_holes(at_the_side), at_the_side)


@given(SOFT)
def test_filling_only_adds_and_a_second_time_changes_nothing(mask):
    filled = refine.fill_holes(mask)
    assert (filled >= mask).all()
    assert np.array_equal(refine.fill_holes(filled), filled)


def test_islands_go_and_the_largest_stays():
    mask = picture("##..# ##..# .....")
    assert np.array_equal(refine.drop_islands(mask, 3 / 15), picture("##... ##... ....."))
    assert np.array_equal(refine.drop_islands(mask, 2 / 15), mask)
    assert np.array_equal(refine.keep_largest(mask), picture("##... ##... ....."))
    assert not refine.drop_islands(mask, 1.0).any()


def test_a_soft_island_goes_with_its_surroundings():
    mask = np.zeros((20, 40), np.float32)
    mask[5:15, 4:14] = 1
    mask[7:12, 29:34] = 1
    soft = refine.feather(mask, 2)
    kept = refine.keep_largest(soft)
    assert soft.max(0)[27:36].all()
    assert np.array_equal(kept[:, :20], soft[:, :20])
    assert not kept[:, 26:].any()


@given(MASKS)
def test_parts_are_disjoint_and_together_the_mask(mask):
    parts = refine.split_parts(mask)
    assert np.array_equal(sum(parts, np.zeros_like(mask)), mask)
    areas = [part.sum() for part in parts]
    assert areas == sorted(areas, reverse=True)
    if parts:
        assert np.array_equal(refine.keep_largest(mask), parts[0])


@given(MASKS.filter(np.any))
def test_the_middle_lies_inside_as_deep_as_can_be(mask):
    row, column = refine.find_middle(mask)
    assert mask[row, column] == 1
    depth = distances(np.pad(mask, 1), 0)[1:-1, 1:-1]
    assert depth[row, column] >= depth.max() - 0.5  # distances are nearly exact


def test_the_middle_of_a_ring_lies_on_the_ring():
    ring = picture("####### ####### ##...## ##...## ##...## ####### #######")
    assert ring[refine.find_middle(ring)] == 1


@given(MASKS, st.integers(-9, 9), st.floats(0, 0.3))
def test_a_hard_mask_of_bytes_is_shaped_like_one_of_floats(mask, pixels, least):
    steps = [
        refine.fill_holes,
        lambda it: refine.drop_islands(it, least),
        lambda it: refine.keep_largest(it, least),
        lambda it: refine.grow(it, pixels),
    ]
    hard = mask.astype(np.uint8)
    for step in steps:
        assert step(hard).dtype == np.uint8
        assert np.array_equal(step(hard), step(mask))
    soft = refine.feather(hard, abs(pixels) + 1)
    assert soft.dtype == np.float32
    assert np.array_equal(soft, refine.feather(mask, abs(pixels) + 1))


@given(SOFT, st.floats(0, 0.3))
def test_the_largest_of_what_is_no_island_is_found_at_once(mask, least):
    expected = refine.keep_largest(refine.drop_islands(mask, least))
    assert np.array_equal(refine.keep_largest(mask, least), expected)


@given(MASKS, st.integers(0, 30), st.floats(0, 0.3))
def test_an_empty_or_full_mask_stays_so(mask, pixels, least):
    for value in (0, 1):
        flat = np.full_like(mask, value)
        for shaped in (
            refine.fill_holes(flat),
            refine.drop_islands(flat, least),
            refine.keep_largest(flat),
            refine.grow(flat, pixels),
            refine.grow(flat, -pixels),
            refine.feather(flat, pixels),
        ):
            assert np.array_equal(shaped, flat)


@given(MASKS, st.integers(1, 12))
def test_growing_reaches_a_disc_around_every_pixel(mask, pixels):
    grown = refine.grow(mask, pixels)
    away = distances(mask, 1)
    assert (grown[away <= pixels * 0.9] == 1).all()
    assert (grown[away > pixels * 1.13 + 0.5] == 0).all()  # small discs have corners
    # shrinking is growing what lies outside; the picture's sides do not count as outside
    assert np.array_equal(refine.grow(mask, -pixels), 1 - refine.grow(1 - mask, pixels))


@given(SOFT, st.integers(1, 12))
def test_growing_a_soft_mask_only_adds(mask, pixels):
    assert (refine.grow(mask, pixels) >= mask).all()
    assert (refine.grow(mask, -pixels) <= mask).all()
    assert np.array_equal(refine.grow(mask, 0), mask)


@given(MASKS, st.integers(1, 9))
def test_a_feather_leaves_exact_values_beyond_its_width(mask, pixels):
    soft = refine.feather(mask, pixels)
    reach = pixels * np.sqrt(2)
    assert (soft[distances(mask, 1) > reach] == 0).all()
    assert (soft[distances(mask, 0) > reach] == 1).all()
    assert ((soft >= 0) & (soft <= 1)).all()


def test_a_feathered_edge_is_a_half_at_the_edge_and_falls_steadily():
    mask = np.zeros((1, 40), np.float32)
    mask[:, 20:] = 1
    soft = refine.feather(mask, 8)[0]
    assert (np.diff(soft) >= 0).all()
    assert soft[11] == 0 and soft[28] == 1
    assert soft[19] + soft[20] == pytest.approx(1, abs=1e-5)
    assert 0.4 < soft[19] < 0.5
