"""What is not finite is refused with one sentence; what is legal gives finite figures."""

import json
import re
from unittest import mock

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError, masks
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.locating import LocateSpec
from conceptattention.conceptattention_core.maps import (
    ORDERS,
    SCALES,
    ReadSpec,
    measure_presence,
    read_maps,
)
from conceptattention.conceptattention_core.masks import MaskSpec, draw_masks, sharpen
from conceptattention.conceptattention_core.output.explorer import make_page
from conceptattention.conceptattention_core.output.layers import Layer, save_psd
from conceptattention.conceptattention_core.output.render import draw_blocks_by_steps
from conceptattention.conceptattention_core.output.rendered import RenderedMaps
from conceptattention.conceptattention_core.recording import Grid, Recorder, RecordSpec, is_finite
from conceptattention.conceptattention_core.refine import follow_edges
from hypothesis import given
from hypothesis import strategies as st

from .examples import concept_maps, draw, random, recording, soft_maps

BROKEN = st.sampled_from([torch.nan, torch.inf, -torch.inf])
SENTENCE = r"hold values that are not finite \(NaN or infinity\)"
ABOVE_0 = st.floats(0, exclude_min=True, allow_infinity=False)  # 5e-324 to 1.8e308
PICTURE = np.zeros((32, 32, 3), np.uint8)

# --- refused --------------------------------------------------------------------------------------


@given(BROKEN, st.integers(0, 2), st.integers(0, 1), st.integers(1, 64))
def test_a_recording_with_one_broken_value_is_refused_and_tells_where(value, step, block, budget):
    grid = Grid.of_latent(4, 4)
    recorder = Recorder(RecordSpec(parse("sun, sky"), budget_mib=budget), grid, (5, 9), 3, "Tiny")
    for at in range(3):
        scores = [random(1, 2, 4, seed=at), random(1, 2, 4, seed=9 + at)]
        if at == step:
            scores[block][0, 1, 2] = value
        recorder.add(at, scores)  # the picture goes on
    with pytest.raises(ConceptAttentionError) as refused:
        recorder.finish()
    assert str(refused.value) == (
        "Tiny gave values that are not finite (NaN or infinity) for concepts at step "
        f"{step} in block {(5, 9)[block]}: its weights are broken, or need another precision "
        "(bfloat16 or float32)."
    )


def test_a_recording_of_large_values_is_finite():
    assert is_finite(torch.full((2, 2), 3e38))
    read_maps(recording(torch.full((1, 1, 1, 3, 2, 2), 3e38)))


@given(BROKEN)
def test_maps_that_are_not_finite_are_refused(value):
    maps = soft_maps().maps
    maps[1, 2, 3, 1] = value
    with pytest.raises(ConceptAttentionError, match=f"maps {SENTENCE}"):
        concept_maps(maps)


@given(BROKEN)
def test_no_mask_is_drawn_from_pixels_that_are_not_finite(value):
    maps = soft_maps(1)
    pixels = torch.rand(1, 3, 104, 56)
    pixels[0, 1, 2, 3] = value
    sent = mock.patch.object(masks, "upsample", return_value=pixels)
    with sent, pytest.raises(ConceptAttentionError, match=f"maps {SENTENCE}"):
        draw_masks(maps)


@given(BROKEN)
def test_a_picture_that_is_not_finite_has_no_edges(value):
    maps, image = soft_maps(1), torch.rand(1, 104, 56, 3)
    image[0, 5, 6, 1] = value
    with pytest.raises(ConceptAttentionError, match=r"image holds values that are not finite"):
        draw(maps, image=image)
    draw(maps, image=image, edges=False)  # its size alone counts


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), -float("inf")])
def test_settings_that_are_no_numbers_above_0_are_refused_everywhere(value):
    for what, call in (
        ("temperature", lambda: ReadSpec(temperature=value)),
        ("contrast", lambda: MaskSpec(contrast=value)),
        ("smoothness", lambda: MaskSpec(smoothness=value)),
    ):
        with pytest.raises(
            ConceptAttentionError, match=f"{what} must be above 0 and finite, got {value}"
        ):
            call()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"grow": 10**9}, "grows by -1024 to 1024 pixels, got 1000000000"),
        ({"grow": -1025}, "grows by -1024 to 1024 pixels, got -1025"),
        ({"feather": 2 * 10**9}, "at most 1024, got 2000000000"),
        ({"islands": float("nan")}, "between 0 and 1, got nan"),
    ],
)
def test_what_would_take_for_ever_is_refused_with_the_range(settings, told):
    with pytest.raises(ConceptAttentionError, match=told):
        MaskSpec(**settings)


def test_a_size_that_is_no_number_is_refused():
    with pytest.raises(ConceptAttentionError, match="nan megapixels"):
        LocateSpec(megapixels=float("nan"))
    for budget in ("nan", "inf"):
        with pytest.raises(ConceptAttentionError, match=f"budget of {budget} MiB"):
            RecordSpec(parse("sun, sky"), budget_mib=float(budget))  # pyright: ignore


def test_a_layer_that_is_not_finite_is_refused_and_named(tmp_path):
    pytest.importorskip("psd_tools")
    broken = Layer("sky", torch.full((2, 2, 4), torch.nan))
    with pytest.raises(ConceptAttentionError, match="layer 'sky' holds values that are not finite"):
        save_psd(tmp_path / "x.psd", [broken], (2, 2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_an_overlay_hides_none_to_all_of_the_picture(strength):
    maps = soft_maps(1)
    picture = np.zeros((maps.grid.h, maps.grid.w, 3), np.uint8)
    with pytest.raises(ConceptAttentionError, match=f"between 0 and 1, got {strength}"):
        RenderedMaps(maps, picture).overlay(strength)


# --- legal, however extreme -----------------------------------------------------------------------


@given(ABOVE_0, st.sampled_from(list(ORDERS)), st.sampled_from(list(SCALES)), st.floats(0, 30))
def test_maps_of_any_temperature_sum_to_1(temperature, order, scale, exponent):
    scores = random(2, 2, 3, 3, 4, 4) * 10**exponent
    maps = read_maps(recording(scores), ReadSpec(order=order, scale=scale, temperature=temperature))
    torch.testing.assert_close(maps.maps.sum(1), torch.ones(2, 4, 4))
    assert 0 <= maps.maps.min() <= maps.maps.max() <= 1


@pytest.mark.parametrize("order", ORDERS)
def test_near_0_the_strongest_takes_all(order):
    scores = random(2, 1, 1, 3, 4, 4)
    maps = read_maps(recording(scores), ReadSpec(order=order, temperature=1e-38)).maps
    expected = torch.nn.functional.one_hot(scores[:, 0, 0].argmax(1), 3).permute(0, 3, 1, 2)
    assert torch.equal(maps, expected.float())


@pytest.mark.parametrize("order", ORDERS)
@given(temperature=st.floats(1e-2, 1e2))
def test_ordinary_temperatures_give_the_formula(order, temperature):
    scores = random(1, 2, 2, 3, 4, 4).double()
    if order == "softmax, then mean":
        expected = (scores / temperature).softmax(3).mean((1, 2))
    else:
        expected = (scores / temperature).mean((1, 2)).softmax(1)
    read = recording(scores.float())
    maps = read_maps(read, ReadSpec(blocks="all", order=order, temperature=temperature)).maps
    torch.testing.assert_close(maps.double(), expected, atol=1e-4, rtol=0)


@given(ABOVE_0)
def test_soft_masks_of_any_contrast_are_masks(contrast):
    masks = draw(soft_maps(1), soft=True, contrast=contrast, keep_absent=True)
    assert 0 <= masks.min() <= masks.max() <= 1
    plain = draw(soft_maps(1), soft=True, keep_absent=True)
    for end in (0, 1):
        assert (masks[plain == end] == end).all()
    assert ((masks > 0.5) <= (plain > 0.5)).all()
    assert ((masks < 0.5) <= (plain < 0.5)).all()


@given(st.floats(0.05, 30))
def test_ordinary_contrasts_give_the_formula(contrast):
    plain = draw(soft_maps(1), soft=True).double()
    inside, outside = plain**contrast, (1 - plain) ** contrast
    masks = draw(soft_maps(1), soft=True, contrast=contrast).double()
    torch.testing.assert_close(masks, inside / (inside + outside), atol=1e-4, rtol=0)


@pytest.mark.parametrize("contrast", [200, 1e4, 1e38])
def test_a_large_contrast_is_a_hard_mask_but_for_the_level(contrast):
    plain = draw(soft_maps(1), soft=True)
    masks = draw(soft_maps(1), soft=True, contrast=contrast)
    away = (plain - 0.5).abs() > 0.1
    torch.testing.assert_close(masks[away], (plain > 0.5).float()[away])


@given(
    ABOVE_0,
    st.integers(0, 10**9),
    st.sampled_from(["flat", "noise", "stripes", "beyond"]),
)
def test_edges_of_any_strength_leave_maps_within_their_values(smoothness, radius, kind):
    maps = soft_maps(1)
    image = {
        "flat": torch.full((1, 104, 56, 3), 0.3),
        "noise": random(1, 104, 56, 3).sigmoid(),
        "stripes": (torch.arange(56) % 8 > 3).float()[:, None].expand(1, 104, 56, 3),
        "beyond": random(1, 104, 56, 3) * 1e30,
    }[kind]
    sharp = sharpen(maps, image, MaskSpec(smoothness=smoothness, radius=radius))
    assert sharp.isfinite().all()
    assert sharp.min() >= maps.maps.min()
    assert sharp.max() <= maps.maps.max()


def test_usual_smoothness_is_what_it_was():
    """Bounds of what float32 can compute lie far from what anyone sets."""
    image, maps = random(1, 3, 40, 40).sigmoid(), random(1, 2, 40, 40).sigmoid()
    two = [follow_edges(maps, image, smoothness=s) for s in (1e-3, 1e-3 * (1 + 1e-6))]
    torch.testing.assert_close(*two, atol=1e-4, rtol=0)
    assert (follow_edges(maps, image, smoothness=1e-5) - two[0]).abs().max() > 0.01


@given(ABOVE_0, st.floats(0, 30))
def test_a_page_and_figures_hold_numbers_alone(temperature, exponent):
    source = recording(random(1, 2, 2, 3, 2, 2) * 10**exponent)
    maps = read_maps(source, ReadSpec(temperature=temperature))
    text = make_page(PICTURE, maps)
    (data,) = re.findall(r'<script type="application/json" id="page">(.*)</script>', text)
    json.loads(data, parse_constant=pytest.fail)
    draw_blocks_by_steps(maps, "sun", 0)
    for figure in measure_presence(maps)[0]:
        assert 0 <= min(figure.coverage, figure.peak, figure.mean) <= 1
