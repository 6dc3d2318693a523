"""Laws of every threshold, and each one against its definition."""

import math

import cv2
import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.thresholds import THRESHOLDS, Heat, find_level
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from .examples import random

ALONE = [name for name in THRESHOLDS if name != "competition"]
"""Thresholds of one map by itself."""


def level(heat: Tensor, name: str, amount: float) -> Tensor:
    return find_level(Heat.alone(heat), name, amount)


def distinct(y: int, x: int, seed: int) -> Tensor:
    """A map `y x` in which no value occurs twice, none is the mean and no two splits tie, 0..1."""
    order = torch.randperm(y * x, generator=torch.Generator().manual_seed(seed))
    return ((order.reshape(y, x).float() + 0.5) / (y * x)) ** 1.7


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_threshold_gives_a_level_and_leaves_the_map_alone(name, dtype):
    heat = random(7, 5).sigmoid().to(dtype)
    before = heat.clone()
    at = level(heat, name, 0.3)
    assert at.shape in ((), heat.shape)
    assert at.dtype == dtype
    assert ((at >= 0) & (at <= 1)).all()
    assert torch.equal(heat, before)


@pytest.mark.parametrize("name", sorted(set(ALONE) - {"fixed"}))
@given(value=st.floats(0, 1, width=32), y=st.integers(1, 13), x=st.integers(1, 11))
def test_in_a_map_of_one_value_nothing_is_above_the_level(name, value, y, x):
    heat = torch.full((y, x), value)
    assert not (heat > level(heat, name, 0.5)).any()


@pytest.mark.parametrize("name", sorted(set(ALONE) - {"fixed"}))
@given(seed=st.integers(0, 99), scale=st.floats(0.1, 0.5), shift=st.floats(0, 0.5))
def test_brightness_and_contrast_do_not_change_what_is_inside(name, seed, scale, shift):
    heat = distinct(7, 5, seed)
    other = heat * scale + shift
    assert torch.equal(heat > level(heat, name, 0.3), other > level(other, name, 0.3))


def test_mean_is_the_mean():
    assert level(torch.tensor([[0.0, 0.25], [0.25, 1.0]]), "mean", 0.9) == 0.375


def test_fixed_is_the_amount():
    assert level(random(3, 5), "fixed", 0.625) == 0.625


@given(seed=st.integers(0, 99), share=st.floats(0, 1))
def test_top_area_keeps_the_strongest_share_of_the_map(seed, share):
    heat = distinct(7, 5, seed)
    inside = heat > level(heat, "top area", share)
    assert abs(inside.sum().item() - share * heat.numel()) <= 1
    if inside.any() and not inside.all():
        assert heat[inside].min() > heat[~inside].max()


def between_groups(values: list[float], inside: list[bool]) -> float:
    """Otsu's criterion for a split, times the square of the number of values."""
    groups = [[v for v, i in zip(values, inside) if i is side] for side in (False, True)]
    if not all(groups):
        return 0.0
    low, high = (math.fsum(group) / len(group) for group in groups)
    return len(groups[0]) * len(groups[1]) * (high - low) ** 2


@given(st.lists(st.integers(0, 255), min_size=2, max_size=41))
def test_otsu_is_the_best_of_all_splits(values):
    heat = torch.tensor([values]).float()
    inside = (heat[0] > level(heat, "otsu", 0.5)).tolist()
    best = max(between_groups(values, [v > split for v in values]) for split in values)
    assert between_groups(values, inside) == pytest.approx(best)


@given(st.integers(0, 99))
def test_otsu_agrees_with_opencv(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (23, 17)).astype(np.uint8)
    theirs, _ = cv2.threshold(pixels, 0, 255, cv2.THRESH_OTSU)
    ours = level(torch.from_numpy(pixels).float(), "otsu", 0.5)
    values = pixels.flatten().tolist()
    assert between_groups(values, [v > ours.item() for v in values]) >= (
        between_groups(values, [v > theirs for v in values]) - 1e-6
    )
    assert ((pixels > ours.item()) == (pixels > theirs)).mean() > 0.95


def test_otsu_splits_two_clear_groups_between_them():
    heat = torch.tensor([[0.1, 0.15, 0.12], [0.8, 0.85, 0.9]])
    assert 0.15 < level(heat, "otsu", 0.5) < 0.8


def test_an_unknown_threshold_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConceptAttentionError, match=", ".join(THRESHOLDS)):
        level(random(3, 5), "median", 0.5)


@pytest.mark.parametrize("amount", [-0.01, 1.01, float("nan")])
@pytest.mark.parametrize("name", THRESHOLDS)
def test_an_amount_outside_of_0_to_1_is_refused(name, amount):
    with pytest.raises(ConceptAttentionError, match="between 0 and 1"):
        level(random(3, 5), name, amount)


@given(seed=st.integers(0, 99), amount=st.floats(0, 1))
def test_hysteresis_keeps_what_hangs_together_with_something_sure(seed, amount):
    heat = distinct(9, 8, seed)
    inside = heat > level(heat, "hysteresis", amount)
    sure = heat > level(heat, "otsu", amount)
    low = heat > min(level(heat, "mean", amount), level(heat, "otsu", amount))
    assert (inside | ~sure).all()  # all that is sure
    assert (low | ~inside).all()  # nothing below the lowest level
    parts, labels = cv2.connectedComponents(inside.numpy().astype(np.uint8), connectivity=8)
    assert all(sure.numpy()[labels == part].any() for part in range(1, parts))


def test_hysteresis_follows_a_weak_arm_but_not_a_weak_island():
    heat = torch.zeros(5, 9)
    heat[2, :3] = 1.0  # sure
    heat[2, 3:6] = 0.4  # its arm
    heat[2, 8] = 0.4  # as weak, by itself
    inside = heat > level(heat, "hysteresis", 1.0)
    assert inside[2].tolist() == [True] * 6 + [False] * 3
    assert (heat > level(heat, "hysteresis", 0.0))[2].tolist() == [True] * 3 + [False] * 6


def test_in_a_competition_the_level_is_the_rival():
    heat = Heat(random(3, 5), random(6, 10, seed=1), rival=lambda: random(6, 10, seed=2))
    assert torch.equal(find_level(heat, "competition", 0.5), random(6, 10, seed=2))
