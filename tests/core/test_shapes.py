"""Whether a picture can be the one that was recorded, told by its shape."""

import warnings

import pytest
import torch
from conceptattention.conceptattention_core.masks import shape_notice
from conceptattention.conceptattention_core.recording import Grid
from hypothesis import assume, given
from hypothesis import strategies as st

from .examples import draw, soft_maps

SIDE = st.integers(4, 300)


@given(SIDE, SIDE, st.floats(0.1, 9))
def test_a_recorded_picture_of_any_size_fits(h, w, times):
    grid = Grid.of_latent(h, w)
    larger = [max(1, round(side * times)) for side in (grid.h, grid.w)]
    assert shape_notice(grid, *larger) is None


@given(SIDE, SIDE, st.integers(0, 7), st.integers(0, 7))
def test_a_picture_that_was_cut_to_whole_cells_of_the_latent_fits(h, w, below, right):
    grid = Grid.of_latent(h, w)
    assert shape_notice(grid, grid.h + below, grid.w + right) is None


@given(
    st.integers(32, 96),
    st.integers(32, 96),
    st.booleans(),
    st.sampled_from((-1, 1)),
    st.integers(8, 400),
)
def test_a_crop_or_a_padded_picture_does_not_fit(h, w, upright, sign, pixels):
    grid = Grid.of_latent(h, w)
    tall, wide = grid.h + sign * pixels * upright, grid.w + sign * pixels * (not upright)
    assume(min(tall, wide) >= 1)
    assert shape_notice(grid, tall, wide) is not None
    assert shape_notice(grid, 3 * tall, 3 * wide) is not None


def test_the_sentence_names_both_sizes_and_the_way_out():
    assert shape_notice(Grid.of_latent(32, 32), 128, 256) == (
        "The picture is 128 x 256, the recording was of 256 x 256: the masks are stretched. "
        "Crop or pad the masks instead of the picture."
    )


@pytest.mark.parametrize(
    ("size", "fits"), [((600, 400), True), ((300, 200), True), ((304, 192), False)]
)
def test_a_picture_that_was_resized_to_be_looked_at_has_its_own_shape(size, fits):
    grid = Grid(y=19, x=12, patch=16, h=304, w=192, size=(600, 400))
    assert (shape_notice(grid, *size) is None) is fits


def test_who_draws_masks_over_a_picture_of_another_shape_is_warned():
    maps = soft_maps(1)
    with pytest.warns(UserWarning, match="The picture is 104 x 28, the recording was of 104 x 56"):
        draw(maps, image=torch.rand(1, 104, 28, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(maps, image=torch.rand(1, 104, 56, 3))
        draw(maps, image=torch.rand(1, 208, 112, 3), edges=False)
