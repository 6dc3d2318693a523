"""From maps to masks: the right pixels, exact ends, one mask per concept in the order asked."""

from dataclasses import replace

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.masks import union, upsample
from conceptattention.conceptattention_core.recording import Grid
from conceptattention.conceptattention_core.thresholds import THRESHOLDS
from hypothesis import given
from hypothesis import strategies as st

from .examples import ODD, concept_maps, draw, random, soft_maps, territories
from .masks_common import bounds

SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))
LATENTS = st.tuples(st.integers(3, 13), st.integers(3, 13))


@given(LATENTS, st.data())
def test_one_hot_patch_lands_on_its_own_pixels(latent, data):
    grid = Grid.of_latent(*latent)
    y = data.draw(st.integers(0, grid.y - 1))
    x = data.draw(st.integers(0, grid.x - 1))
    owners = [[int((i, j) == (y, x)) for j in range(grid.x)] for i in range(grid.y)]
    maps = territories(owners, "ground, thing", grid)
    mask = draw(maps, ["thing"], threshold="fixed", amount=0.5)[0, 0]

    assert mask.shape == (grid.h, grid.w)
    top, bottom, left, right = bounds(mask)
    # inside the patch
    assert 16 * y <= top < bottom <= 16 * (y + 1)
    assert 16 * x <= left < right <= 16 * (x + 1)
    # and in its middle, unless the patch lies at an edge of the grid or is cut off by one
    if 0 < y and 16 * (y + 2) <= grid.h:
        assert top - 16 * y == 16 * (y + 1) - bottom
    if 0 < x and 16 * (x + 2) <= grid.w:
        assert left - 16 * x == 16 * (x + 1) - right


@given(LATENTS, st.data())
def test_a_border_between_patches_is_a_border_between_pixels(latent, data):
    grid = Grid.of_latent(*latent)
    rows = data.draw(st.integers(1, grid.y - 1))
    columns = data.draw(st.integers(1, grid.x - 1))
    above = territories([[int(i < rows)] * grid.x for i in range(grid.y)], "ground, thing", grid)
    beside = territories([[int(j < columns) for j in range(grid.x)]] * grid.y, "a, thing", grid)
    assert bounds(draw(above, ["thing"], threshold="otsu")[0, 0]) == [0, 16 * rows, 0, grid.w]
    assert bounds(draw(beside, ["thing"], threshold="otsu")[0, 0]) == [0, grid.h, 0, 16 * columns]


@pytest.mark.parametrize("times", [2, 3, 0.5])
def test_masks_of_a_larger_or_smaller_picture_are_scaled_not_shifted(times):
    grid = Grid.of_latent(8, 12)
    maps = territories([[1, 1, 0, 0, 0, 0]] * 2 + [[0] * 6] * 2, "ground, thing", grid)
    size = (round(64 * times), round(96 * times))
    mask = draw(maps, ["thing"], threshold="fixed", amount=0.49, size=size)[0, 0]
    assert mask.shape == size
    top, bottom, left, right = bounds(mask)
    assert (top, left) == (0, 0)
    assert abs(bottom - 32 * times) <= 1
    assert abs(right - 32 * times) <= 1


def test_padding_is_cut_off_before_scaling():
    # 5 latent rows are 3 patches; the last one is half padding and 40 pixels remain of 48
    grid = Grid.of_latent(5, 4)
    maps = territories([[0, 0], [1, 1], [1, 1]], "ground, thing", grid)
    mask = draw(maps, ["thing"], threshold="fixed", amount=0.5, size=(80, 64))[0, 0]
    assert bounds(mask) == [32, 80, 0, 64]


@given(SIZES)
def test_every_pixel_gets_a_value_between_those_of_the_map(size):
    maps = soft_maps()
    pixels = upsample(maps.maps, ODD, size)
    assert pixels.shape == (2, 3, *size)
    assert pixels.min() >= maps.maps.min() - 1e-6
    assert pixels.max() <= maps.maps.max() + 1e-6
    torch.testing.assert_close(pixels.sum(1), torch.ones(2, *size))


def test_without_a_size_masks_are_as_large_as_the_latent_decodes_to():
    assert draw(soft_maps()).shape == (3, 2, 104, 56)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@given(seed=st.integers(0, 50), amount=st.floats(0, 1), size=SIZES)
def test_hard_masks_are_exactly_0_or_1(threshold, seed, amount, size):
    masks = draw(soft_maps(seed=seed), threshold=threshold, amount=amount, size=size)
    assert masks.dtype == torch.float32
    assert masks.shape == (3, 2, *size)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("threshold", ["mean", "otsu"])
def test_soft_masks_reach_exactly_0_and_1(threshold):
    for mask in draw(soft_maps(), threshold=threshold, soft=True).flatten(0, 1):
        assert (mask.min(), mask.max()) == (0, 1)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@given(seed=st.integers(0, 50), amount=st.floats(0, 1))
def test_a_soft_mask_is_above_a_half_where_the_hard_one_is_1(threshold, seed, amount):
    maps = soft_maps(seed=seed)
    soft = draw(maps, threshold=threshold, amount=amount, soft=True)
    hard = draw(maps, threshold=threshold, amount=amount)
    assert soft.dtype == torch.float32
    assert 0 <= soft.min() and soft.max() <= 1
    unsure = (soft - 0.5).abs() < 1e-6  # rounding
    assert torch.equal((soft > 0.5)[~unsure], hard.bool()[~unsure])


def test_a_soft_mask_grows_with_the_map():
    maps = soft_maps(b=1)
    heat = upsample(maps.maps, ODD)[0, 1].flatten()
    mask = draw(maps, ["sun"], soft=True)[0, 0].flatten()
    assert (mask[heat.argsort()].diff() >= -1e-6).all()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("threshold", sorted(set(THRESHOLDS) - {"fixed", "competition"}))
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 0.5, 0.7, 1.0])
def test_a_map_of_one_value_gives_an_empty_mask(threshold, soft, value):
    maps = concept_maps(torch.full((1, 3, ODD.y, ODD.x), value), grid=ODD)
    masks = draw(maps, threshold=threshold, soft=soft, keep_absent=True, size=(101, 67))
    assert masks.count_nonzero() == 0


def test_an_absent_concept_gives_zeros_in_its_place():
    grid = Grid.of_latent(4, 6)
    maps = territories([[0, 0, 2], [2, 2, 2]], "sun, moon, sky", grid)
    faint = replace(maps, maps=maps.maps * 0.8 + random(1, 3, 2, 3).sigmoid() * 0.1)
    masks = draw(faint)
    assert [bool(mask.any()) for mask in masks] == [True, False, True]
    assert all(mask.any() for mask in draw(faint, keep_absent=True))


def test_presence_is_judged_for_each_picture_of_a_batch():
    grid = Grid.of_latent(4, 4)
    pictures = [
        territories(owners, "sun, sky", grid).maps for owners in ([[0, 0], [0, 1]], [[1, 1]] * 2)
    ]
    masks = draw(concept_maps(torch.cat(pictures), "sun, sky", grid), threshold="otsu")
    assert [[bool(mask.any()) for mask in of_concept] for of_concept in masks] == [
        [True, False],
        [True, False],  # sky is everywhere in the second picture: nothing to tell it from
    ]


@given(st.permutations(["balloon", "sun", "red hot sky"]), st.integers(1, 3))
def test_masks_come_in_the_order_of_the_names(names, count):
    maps = soft_maps()
    everything = dict(zip(maps.concepts.names, draw(maps)))
    for mask, name in zip(draw(maps, names[:count]), names[:count], strict=True):
        assert torch.equal(mask, everything[name])


def test_a_name_twice_gives_its_mask_twice():
    first, second = draw(soft_maps(), ["sun", "SUN"])
    assert torch.equal(first, second)


def test_a_hidden_background_gets_a_mask_only_when_named():
    maps = soft_maps(names="sun")
    assert len(draw(maps)) == 1
    assert draw(maps, ["background"]).any()


def test_an_unknown_name_is_an_error_that_lists_the_recorded_ones():
    with pytest.raises(ConceptAttentionError, match="named 'moon'. Recorded: balloon, sun, red"):
        draw(soft_maps(), ["sun", "moon"])


def test_no_name_is_an_error():
    with pytest.raises(ConceptAttentionError, match="No concept was named. Recorded: balloon"):
        draw(soft_maps(), [])


def test_maps_stay_as_they_were():
    maps = soft_maps()
    before = maps.maps.clone()
    for threshold in THRESHOLDS:
        draw(maps, threshold=threshold, soft=True, keep_absent=True, size=(31, 17))
    assert torch.equal(maps.maps, before)


def test_a_union_holds_what_any_of_its_masks_holds():
    masks = draw(soft_maps(), soft=True)
    joined = union(masks)
    assert joined.shape == masks.shape[1:]
    assert torch.equal(joined, torch.maximum(torch.maximum(masks[0], masks[1]), masks[2]))


def test_hard_masks_of_concepts_that_own_their_patches_tile_the_picture():
    maps = territories([[0, 1], [2, 2]], parse("sun, moon, sky"), Grid.of_latent(4, 4))
    masks = draw(maps, threshold="fixed", amount=0.5)
    assert (masks.sum(0) <= 1).all()


@given(seed=st.integers(0, 99), size=SIZES)
def test_masks_of_a_competition_tile_the_picture(seed, size):
    masks = draw(soft_maps(seed=seed), threshold="competition", size=size)
    assert torch.equal(masks.sum(0), torch.ones(2, *size))


def test_equals_share_nothing_and_leave_no_gap():
    maps = concept_maps(torch.full((1, 3, ODD.y, ODD.x), 1 / 3), grid=ODD)
    masks = draw(maps, threshold="competition")
    assert torch.equal(masks[0], torch.ones(1, 104, 56))
    assert masks[1:].count_nonzero() == 0


def test_a_hidden_background_competes():
    maps = soft_maps(names="sun")
    sun, background = draw(maps, ["sun", "background"], threshold="competition")
    assert 0 < sun.mean() < 1
    assert torch.equal(sun + background, torch.ones_like(sun))


def test_a_soft_mask_of_a_competition_is_a_half_where_two_are_equal():
    grid = Grid.of_latent(2, 8)
    ramp = torch.tensor([[0.9, 0.7, 0.3, 0.1]])
    maps = concept_maps(torch.stack([ramp, 1 - ramp])[None], "sun, sky", grid)
    sun, sky = draw(maps, threshold="competition", soft=True)
    middle = (upsample(maps.maps, grid)[0, 0] - 0.5).abs() < 1e-6
    assert (sun[0] > 0.5)[:, :32].all() and (sky[0] > 0.5)[:, 32:].all()
    assert (sun[0][middle] == 0.5).all()
