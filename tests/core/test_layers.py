"""Pictures in parts: alpha and bounds to the pixel, and layered files that editors open."""

import sys

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.output.layers import (
    Layer,
    cut_out,
    find_bounds,
    save_psd,
)
from hypothesis import given
from hypothesis import strategies as st

from .examples import random

# --- cut-outs and bounds --------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 4])
def test_a_cut_out_keeps_colours_and_takes_the_mask_as_alpha(channels):
    image, mask = random(2, 5, 7, channels).sigmoid(), random(2, 5, 7, seed=1).sigmoid()
    rgba = cut_out(image, mask)
    assert rgba.shape == (2, 5, 7, 4)
    assert torch.equal(rgba[..., :3], image[..., :3])
    assert torch.equal(rgba[..., 3], mask)


def test_a_cut_out_has_the_kind_of_numbers_of_its_picture():
    assert cut_out(torch.rand(1, 2, 2, 3).half(), torch.ones(1, 2, 2)).dtype == torch.float16


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 7, 5), (2, 5, 8), (5, 7), (2, 1, 5, 7)])
def test_a_mask_of_another_shape_is_refused_with_both_shapes(shape):
    with pytest.raises(ConceptAttentionError) as refused:
        cut_out(torch.rand(2, 5, 7, 3), torch.ones(shape))
    assert "2 of 5 x 7 pixels" in str(refused.value)
    assert str(shape) in str(refused.value)


SIDES = st.integers(1, 12)


@given(SIDES, SIDES, st.data())
def test_bounds_hold_all_of_the_mask_and_touch_it_on_each_side(h, w, data):
    values = st.sampled_from([0.0, 0.0, 0.0, 1e-6, 1.0])
    mask = torch.tensor(data.draw(st.lists(values, min_size=h * w, max_size=h * w))).view(h, w)
    bounds = find_bounds(mask)
    if bounds is None:
        assert not mask.any()
        return
    left, top, right, bottom = bounds
    inside = mask[top:bottom, left:right]
    assert inside.count_nonzero() == mask.count_nonzero()
    for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
        assert side.any()


@given(SIDES, SIDES, st.integers(0, 20), st.data())
def test_a_margin_goes_as_far_as_the_picture(h, w, margin, data):
    y, x = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    mask = torch.zeros(h, w)
    mask[y, x] = 1
    near = torch.tensor(
        [[max(abs(i - y), abs(j - x)) <= margin for j in range(w)] for i in range(h)]
    )
    left, top, right, bottom = find_bounds(mask, margin)
    assert near[top:bottom, left:right].all()
    assert (bottom - top) * (right - left) == near.sum()


def test_an_empty_mask_has_no_bounds():
    assert find_bounds(torch.zeros(4, 4), margin=3) is None


# --- layered files --------------------------------------------------------------------------------


@pytest.fixture
def psd_tools():
    return pytest.importorskip("psd_tools")


def layer(name: str, h: int, w: int, left: int = 0, top: int = 0, seed: int = 0) -> Layer:
    """Colours and an alpha that 8 bits hold exactly."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (h, w, 4), generator=generator)
    return Layer(name, values.float() / 255, left, top)


def bytes_of(layer: Layer) -> np.ndarray:
    return (layer.rgba * 255).round().byte().numpy()


def test_a_layered_file_holds_every_layer_where_it_was(tmp_path, psd_tools):
    stack = [layer("picture", 20, 30), layer("sun", 5, 7, 3, 11, 1), layer("moon", 9, 4, 26, 0, 2)]
    save_psd(tmp_path / "new" / "folder" / "stack.psd", stack, (20, 30))
    psd = psd_tools.PSDImage.open(tmp_path / "new" / "folder" / "stack.psd")
    assert psd.size == (30, 20)
    assert [found.name for found in psd] == ["picture", "sun", "moon"]  # from the bottom
    for found, made in zip(psd, stack, strict=True):
        h, w = made.rgba.shape[:2]
        assert found.bbox == (made.left, made.top, made.left + w, made.top + h)
        assert (found.visible, found.opacity) == (True, 255)
        assert found.topil().mode == "RGBA"
        assert np.array_equal(np.asarray(found.topil())[..., :3], bytes_of(made)[..., :3])
        # alpha is an editable mask, in the place of the layer
        assert found.mask.bbox == found.bbox
        assert np.array_equal(np.asarray(found.mask.topil()), bytes_of(made)[..., 3])


def test_viewers_that_know_no_layers_see_the_layers_on_each_other(tmp_path, psd_tools):
    below = Layer("below", torch.cat([random(6, 8, 3).sigmoid(), torch.ones(6, 8, 1)], -1))
    above = Layer("above", torch.ones(2, 3, 4) * torch.tensor([1, 0, 0, 1.0]), 4, 1)
    above.rgba[0, 0, 3] = 0
    save_psd(tmp_path / "x.psd", [below, above], (6, 8))
    seen = np.asarray(psd_tools.PSDImage.open(tmp_path / "x.psd").topil().convert("RGB"))
    expected = bytes_of(below)[..., :3].copy()
    expected[1:3, 4:7] = [255, 0, 0]
    expected[1, 4] = bytes_of(below)[1, 4, :3]
    assert np.array_equal(seen, expected)


def test_a_layer_may_reach_beyond_the_canvas(tmp_path, psd_tools):
    save_psd(tmp_path / "x.psd", [layer("far", 6, 6, -3, 4)], (8, 8))
    psd = psd_tools.PSDImage.open(tmp_path / "x.psd")
    assert psd.size == (8, 8)
    assert psd[0].bbox == (-3, 4, 3, 10)


def test_colours_beyond_0_and_1_are_cut_off_there(tmp_path, psd_tools):
    save_psd(tmp_path / "x.psd", [Layer("hot", torch.tensor([[[-1.0, 2, 0.5, 1]]]))], (1, 1))
    (found,) = psd_tools.PSDImage.open(tmp_path / "x.psd")
    assert np.asarray(found.topil())[0, 0].tolist() == [0, 255, 128, 255]


@pytest.mark.parametrize(
    "name",
    ["red hot sky", "café", "日本の空", "سماء زرقاء", "небо", "🎈 balloon", "a/b\\c", "e\u0301",
     "\U00020000" * 100, "very " * 60 + "long"],
    ids=lambda name: ascii(name[:9]),
)  # fmt: skip
def test_layers_are_called_by_their_names_in_any_script(tmp_path, psd_tools, name):
    save_psd(tmp_path / "x.psd", [layer("below", 4, 4), layer(name, 4, 4)], (4, 4))
    _, named = psd_tools.PSDImage.open(tmp_path / "x.psd")
    assert len(named.name) >= min(len(name), 60)
    assert name.startswith(named.name)


def test_without_psd_tools_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psd_tools", None)  # as if it were not installed
    with pytest.raises(ConceptAttentionError) as refused:
        save_psd(tmp_path / "x.psd", [layer("a", 2, 2)], (2, 2))
    assert str(refused.value) == (
        "Layered files need psd-tools, which is not installed: pip install psd-tools"
    )
    assert not list(tmp_path.iterdir())
