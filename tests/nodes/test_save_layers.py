"""Save Layers: files of layers."""

import sys

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.nodes.layers import SaveLayers

from .common import (
    box_mask,
    compositor,
    files_in,
    layers_of,
    newer_comfyui,
    picture,
    run,
    save_layers,
    thirds,
)


def test_a_file_of_layers_has_each_thing_in_its_place(output, psd_tools):
    pixels = picture()
    path = save_layers(layers_of(pixels, thirds(), ["sun", "moon", "red sky"]))
    assert path == output / "ConceptAttention" / "layers_00001_.psd"
    psd = psd_tools.PSDImage.open(path)
    assert psd.size == (56, 40)
    assert [layer.name for layer in psd] == ["picture", "sun", "moon", "red sky"]
    expected = (pixels[0] * 255).round().byte().numpy()
    for layer, mask in zip(psd, [torch.ones(1, 40, 56), *thirds()], strict=True):
        left, top, right, bottom = layer.bbox
        alpha = mask[0, top:bottom, left:right].numpy()
        assert alpha.sum() == mask.sum()  # nothing of it lies elsewhere
        shown = np.asarray(layer.composite())
        assert np.array_equal(shown[..., 3], alpha * 255)
        inside = expected[top:bottom, left:right][alpha == 1]
        assert np.array_equal(shown[..., :3][alpha == 1], inside)
    assert np.array_equal(np.asarray(psd.topil().convert("RGB")), expected)
    psd[0].visible = False  # what tiles the picture is the picture
    above = np.asarray(psd.composite(force=True).convert("RGB"))
    assert np.array_equal(above, expected)


def test_layers_are_called_by_their_concepts_in_any_script(output, psd_tools):
    names = ["🎈 balloon", "سماء زرقاء", "日本の空"]
    psd = psd_tools.PSDImage.open(save_layers(layers_of(picture(), thirds(), names)))
    assert [layer.name for layer in psd] == ["picture", *names]


def test_saving_layers_again_makes_another_file_and_leaves_the_first(output, psd_tools):
    document = layers_of(picture(), thirds()[:1], ["a"])
    paths = [save_layers(document, "one/two/stack")]
    before = paths[0].read_bytes()
    paths.append(save_layers(layers_of(picture(), thirds(), ["a", "b", "c"]), "one/two/stack"))
    assert files_in(output) == ["one/two/stack_00001_.psd", "one/two/stack_00002_.psd"]
    assert files_in(output) == [path.relative_to(output).as_posix() for path in paths]
    assert paths[0].read_bytes() == before


def test_without_psd_tools_save_layers_says_so_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "psd_tools", None)
    told = SaveLayers.validate_inputs(filename_prefix="x")
    assert told == "Layered files need psd-tools, which is not installed: pip install psd-tools"


def test_without_psd_tools_save_layers_says_how_to_get_it(output, monkeypatch):
    monkeypatch.setitem(sys.modules, "psd_tools", None)  # as if it were not installed
    with pytest.raises(ConceptAttentionError, match="need psd-tools.*: pip install psd-tools$"):
        save_layers(layers_of(picture(), thirds(), ["a", "b", "c"]))
    assert files_in(output) == []


def test_a_stack_without_layers_is_refused(output):
    with pytest.raises(ConceptAttentionError, match="There is no layer to save"):
        save_layers({"version": 1, "layers": []})


def core_stack(**layer) -> dict:
    """A white picture of 40 by 56 pixels and above it a layer of core's Add Layer."""
    (document,) = run(compositor.AddLayer, image=torch.ones(1, 40, 56, 3), name="white")
    return run(compositor.AddLayer, layers=document, **layer)[0]


@newer_comfyui
@pytest.mark.parametrize("channels", [3, 4])
def test_a_stack_made_by_core_looks_in_the_file_as_core_shows_it(output, psd_tools, channels):
    pixels = (torch.rand(1, 10, 12, channels) * 255).round() / 255
    mask = box_mask((0, 0, 5, 10), h=10, w=12)
    document = core_stack(image=pixels, mask=mask, x=20, y=7, opacity=1.0, name="part")
    psd = psd_tools.PSDImage.open(save_layers(document))
    assert psd[1].bbox == (20, 7, 32, 17)
    shown = np.asarray(psd.topil().convert("RGB")) / 255
    part = pixels[0, :, 5:]
    alpha = part[..., 3:] if channels == 4 else torch.ones(10, 7, 1)
    expected = np.ones((40, 56, 3))
    expected[7:17, 25:32] = part[..., :3] * alpha + 1 - alpha
    assert np.abs(shown - expected).max() <= 1.5 / 255


@newer_comfyui
def test_a_batch_in_a_layer_becomes_a_layer_each_as_in_core(output, psd_tools):
    document = core_stack(image=picture(3), name="frames")
    frames = compositor.expand_item_frames(compositor.document_items(document))
    psd = psd_tools.PSDImage.open(save_layers(document))
    assert len(psd) == len(frames) == 4


def test_a_stack_without_a_canvas_is_as_large_as_its_layers_reach(output, psd_tools):
    document = layers_of(picture(), thirds(), ["a", "b", "c"])
    del document["canvas"]
    document["layers"][2].update(x=50, y=13)
    h, w = document["layers"][2]["image"].shape[1:3]
    psd = psd_tools.PSDImage.open(save_layers(document))
    assert psd.size == (max(56, 50 + w), max(40, 13 + h))


def test_layers_lie_on_each_other_by_their_z_index(output, psd_tools):
    document = layers_of(picture(), thirds(), ["a", "b", "c"])
    document["layers"][0]["z_index"] = 7
    psd = psd_tools.PSDImage.open(save_layers(document))
    assert [layer.name for layer in psd] == ["a", "b", "c", "picture"]
