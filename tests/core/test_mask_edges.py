"""Masks follow the picture's edges; contrast and shapes."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError, refine
from conceptattention.conceptattention_core.masks import MaskSpec, sharpen, split_masks, upsample
from conceptattention.conceptattention_core.recording import Grid
from hypothesis import given
from hypothesis import strategies as st

from .examples import ODD, draw, random, soft_maps, territories
from .masks_common import bounds


def two_tones(h: int, w: int, border: int) -> torch.Tensor:
    """A picture, dark to the left of `border` and bright to the right of it: `1 h w rgb`."""
    image = torch.zeros(1, h, w, 3)
    image[:, :, border:] = torch.tensor([0.9, 0.8, 0.4])
    return image


@pytest.mark.parametrize("border", [27, 32, 38])
def test_masks_follow_the_edges_of_the_picture(border):
    grid = Grid.of_latent(8, 8)
    maps = territories([[0, 0, 1, 1]] * 4, "left, right", grid)  # patches meet at 32
    image = two_tones(64, 64, border)
    mask = draw(maps, ["right"], threshold="competition", image=image)[0, 0]
    assert bounds(mask) == [0, 64, border, 64]
    plain = draw(maps, ["right"], threshold="competition", image=image, edges=False)[0, 0]
    assert bounds(plain) == [0, 64, 32, 64]


def test_an_edge_is_looked_for_as_far_as_the_radius():
    grid = Grid.of_latent(16, 16)
    maps = territories([[0] * 4 + [1] * 4] * 8, "left, right", grid)  # patches meet at 64
    image = two_tones(128, 128, 84)
    how = {"threshold": "competition", "image": image}
    near = draw(maps, ["right"], radius=4, **how)[0, 0]
    far = draw(maps, ["right"], radius=40, **how)[0, 0]
    assert bounds(near)[2] <= 64
    assert abs(bounds(far)[2] - 84) <= 4  # of so wide a window every tenth pixel counts
    assert torch.equal(draw(maps, radius=16, **how), draw(maps, **how))


def test_a_radius_counts_pixels_of_the_picture():
    maps = soft_maps(b=1)  # 104 x 56 pixels
    image = torch.rand(1, 208, 112, 3, generator=torch.Generator().manual_seed(0))
    plain = draw(maps, image=image, soft=True)
    assert torch.equal(draw(maps, image=image, soft=True, radius=32), plain)
    assert not torch.equal(draw(maps, image=image, soft=True, radius=16), plain)


def test_an_edge_fainter_than_the_smoothness_is_none():
    maps = territories([[0, 0, 1, 1]] * 4, "left, right", Grid.of_latent(8, 8))
    image = two_tones(64, 64, 38) * 0.05
    how = {"threshold": "competition", "image": image}
    assert bounds(draw(maps, ["right"], smoothness=1e-6, **how)[0, 0]) == [0, 64, 38, 64]
    assert bounds(draw(maps, ["right"], smoothness=1.0, **how)[0, 0]) == [0, 64, 32, 64]


@given(
    seed=st.integers(0, 20),
    size=st.tuples(st.integers(8, 150), st.integers(8, 150)),
    radius=st.sampled_from([0, 0, 1, 3, 50, 512]),
)
def test_with_edges_maps_still_share_one_and_stay_within_their_values(seed, size, radius):
    maps = soft_maps(seed=seed)
    image = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(seed))
    pixels = sharpen(maps, image, MaskSpec(radius=radius))
    assert pixels.shape == (2, 3, *size)
    low, high = maps.maps.amin((2, 3), keepdim=True), maps.maps.amax((2, 3), keepdim=True)
    assert ((pixels >= low) & (pixels <= high)).all()
    inner = ((pixels > low) & (pixels < high)).all(1)  # where none was cut off
    torch.testing.assert_close(
        pixels.sum(1)[inner], torch.ones(int(inner.sum())), atol=1e-4, rtol=0
    )


def test_a_flat_picture_has_no_edges_to_follow():
    maps = soft_maps()
    image = torch.full((2, 104, 56, 3), 0.3)
    smooth, plain = sharpen(maps, image), upsample(maps.maps, ODD)
    assert smooth.std() < plain.std()  # a mean over windows, nothing else
    torch.testing.assert_close(smooth.mean((2, 3)), plain.mean((2, 3)), atol=0.03, rtol=0)


def test_alpha_and_a_picture_of_another_size_do_no_harm():
    maps = soft_maps()
    image = torch.rand(2, 208, 112, 4)
    assert torch.equal(sharpen(maps, image), sharpen(maps, image[..., :3]))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.35, 0.8, 1.0])
def test_top_area_is_so_large_on_the_pixels_that_are_cut(share):
    y, x = torch.meshgrid(torch.arange(104.0), torch.arange(56.0), indexing="ij")
    ball = ((y - 40) ** 2 + (x - 20) ** 2 < 14**2).float()
    image = torch.stack([ball, 1 - ball, y / 104], -1)[None].expand(2, -1, -1, -1)
    image = image * 0.7 + 0.3 * random(2, 104, 56, 3).sigmoid()
    for seed in range(4):
        settings = {"threshold": "top area", "amount": share, "keep_absent": True}
        masks = draw(soft_maps(seed=seed), image=image, **settings)
        expected = torch.full((3, 2), share)
        torch.testing.assert_close(masks.mean((2, 3)), expected, atol=0.01, rtol=0)


def test_pixels_of_one_value_are_in_or_out_of_the_top_area_together():
    grid = Grid.of_latent(8, 8)
    maps = territories([[0, 0, 0, 1]] * 4, "thing, ground", grid)

    def area(share: float) -> float:
        settings = {"threshold": "top area", "amount": share, "image": torch.zeros(1, 64, 64, 3)}
        return draw(maps, ["thing"], **settings).mean().item()

    whole = (sharpen(maps, torch.zeros(1, 64, 64, 3))[0, 0] == 1).float().mean().item()
    assert area(whole * 0.4) == 0
    assert area(whole * 0.6) == whole


@given(contrast=st.floats(0.1, 20))
def test_contrast_leaves_0_a_half_and_1_and_the_order(contrast):
    maps = soft_maps(b=1)
    plain = draw(maps, ["sun"], soft=True).flatten()
    other = draw(maps, ["sun"], soft=True, contrast=contrast).flatten()
    assert (other[plain == 0] == 0).all() and (other[plain == 1] == 1).all()
    sure = (plain - 0.5).abs() > 1e-4
    assert ((other > 0.5) == (plain > 0.5))[sure].all()
    assert (other[plain.argsort()].diff() >= -1e-6).all()
    steeper = (other - 0.5).abs() - (plain - 0.5).abs()
    assert (steeper >= -1e-6).all() if contrast >= 1 else (steeper <= 1e-6).all()


def test_finishing_takes_its_steps_in_the_order_it_states():
    maps = soft_maps(b=1, seed=3)
    hard = draw(maps, ["sun"])[0, 0].numpy()
    expected = refine.fill_holes(hard)
    expected = refine.drop_islands(expected, 0.02)
    expected = refine.grow(refine.keep_largest(expected), 5)
    expected = refine.feather(expected, 3)
    drawn = draw(maps, ["sun"], holes=True, islands=0.02, largest=True, grow=5, feather=3)[0, 0]
    assert torch.equal(drawn, torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"contrast": 0}, "contrast must be above 0"),
        ({"islands": 1.5}, "must lie between 0 and 1"),
        ({"feather": -1}, "0 pixels or more"),
        ({"radius": -1}, "0 pixels or more"),
        ({"smoothness": 0.0}, "smoothness must be above 0"),
    ],
)
def test_what_cannot_be_finished_is_refused(settings, told):
    with pytest.raises(ConceptAttentionError, match=told):
        draw(soft_maps(), **settings)


def test_parts_come_by_size_and_together_are_the_mask():
    masks = torch.zeros(2, 20, 30)
    masks[0, 2:5, 2:5] = 1
    masks[0, 10:18, 10:18] = 1
    masks[1, 0:2, 0:2] = 1
    parts = split_masks(masks)
    assert parts.shape == (2, 2, 20, 30)
    assert [parts[n, 0].sum().item() for n in (0, 1)] == [64, 9]
    assert [parts[n, 1].sum().item() for n in (0, 1)] == [4, 0]
    assert torch.equal(parts.sum(0), masks)
    assert split_masks(masks, least=0.05).sum((2, 3)).tolist() == [[64, 0]]
    assert torch.equal(split_masks(torch.zeros(1, 4, 4)), torch.zeros(1, 1, 4, 4))
