"""How a picture that exists already is looked at."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.locating import (
    LocateSpec,
    blend,
    blend_at_unit_variance,
    draw_passes,
    fit,
    noise_ratio,
    parse_noise,
    resize,
)
from hypothesis import given
from hypothesis import strategies as some


@given(h=some.integers(1, 5000), w=some.integers(1, 5000))
def test_a_picture_is_changed_by_half_a_patch_at_most(h, w):
    y, x = fit(h, w, 16, megapixels=100.0)
    assert y % 16 == x % 16 == 0
    for given_side, side in ((h, y), (w, x)):
        assert abs(side - given_side) <= 8 or (given_side < 8 and side == 16)


@given(h=some.integers(16, 5000), w=some.integers(16, 5000))
def test_a_large_picture_shrinks_in_its_shape(h, w):
    y, x = fit(h, w, 16, megapixels=0.25)
    shrink = min(1, 512 / (h * w) ** 0.5)
    for given_side, side in ((h, y), (w, x)):
        assert abs(side - shrink * given_side) <= 8 or side == 16


def test_whole_patches_stay_as_they_are():
    assert fit(1024, 768, 16) == (1024, 768)
    pictures = torch.rand(1, 3, 32, 48)
    assert resize(pictures, (32, 48)) is pictures


def test_resizing_stays_within_black_and_white():
    edges = (torch.rand(1, 3, 17, 23) > 0.5).float()
    resized = resize(edges, (32, 32))
    assert resized.shape == (1, 3, 32, 32)
    assert resized.min() >= 0 and resized.max() <= 1


def test_passes_are_all_levels_for_each_sample_alike_in_a_batch():
    spec = LocateSpec(noise=(0.2, 0.8), samples=3, seed=7)
    passes = list(draw_passes(spec, torch.zeros(2, 16, 4, 6)))
    assert [(place, level) for place, level, _ in passes] == [(0, 0.2), (1, 0.8)] * 3
    assert len(passes) == spec.passes
    for _, _, noise in passes:
        assert torch.equal(noise[0], noise[1])
    assert torch.equal(passes[0][2], passes[1][2])  # levels share their noise
    assert not torch.equal(passes[0][2], passes[2][2])
    later = list(draw_passes(LocateSpec(seed=8), torch.zeros(2, 16, 4, 6)))
    assert torch.equal(later[0][2], passes[2][2])  # the seed counts on


def test_noise_is_mixed_in_as_rectified_flow_has_it():
    latent, noise = torch.tensor(2.0), torch.tensor(10.0)
    assert blend(latent, noise, 0.25).item() == pytest.approx(0.75 * 2 + 0.25 * 10)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8])
def test_at_unit_variance_the_mixture_is_the_same(level):
    generator = torch.Generator().manual_seed(0)
    latent, noise = torch.randn(2, 100_000, generator=generator, dtype=torch.float64)
    mixed = blend_at_unit_variance(latent, noise, level)
    assert mixed.std().item() == pytest.approx(1, abs=0.01)
    flow = blend(latent, noise, level)
    torch.testing.assert_close(mixed / mixed[0], flow / flow[0])
    alpha = 1 / (1 + noise_ratio(level) ** 2)
    torch.testing.assert_close(mixed, alpha**0.5 * latent + (1 - alpha) ** 0.5 * noise)


def test_levels_are_read_from_text():
    assert parse_noise("0.5") == (0.5,)
    assert parse_noise(" .3, 0.5,") == (0.3, 0.5)
    with pytest.raises(ConceptAttentionError, match="got 'half'"):
        parse_noise("half")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"noise": ()}, "got none"),
        ({"noise": (0.5, 1.0)}, r"got 0.5, 1.0"),
        ({"noise": (0.0,)}, "between 0"),
        ({"samples": 0}, "got 0 samples"),
        ({"megapixels": 0.0}, "give more than 0"),
    ],
)
def test_what_cannot_be_is_said(settings, told):
    with pytest.raises(ConceptAttentionError, match=told):
        LocateSpec(**settings)
