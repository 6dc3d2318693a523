"""Cut Out and Concept Layers."""

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.nodes.layers import CutOut, Layers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import nodes as stock

from ..comfyui.tiny import call
from .common import (
    box_mask,
    compositor,
    defaults,
    few,
    files_in,
    layers_of,
    newer_comfyui,
    picture,
    run,
    thirds,
)


def cut_out(image: torch.Tensor, mask: torch.Tensor, **widgets) -> list[torch.Tensor]:
    given = {"image": image, "mask": mask, **defaults(CutOut), **widgets}
    (made,) = call(CutOut, **{name: [value] for name, value in given.items()})
    return made


@pytest.mark.parametrize("channels", [3, 4])
def test_a_cut_out_keeps_colours_and_takes_the_mask_as_alpha(channels):
    pixels = torch.rand(2, 40, 56, channels)
    mask = torch.cat([box_mask((3, 4, 9, 9)), torch.rand(1, 40, 56)])
    (rgba,) = cut_out(image=pixels, mask=mask)
    assert torch.equal(rgba[..., :3], pixels[..., :3])
    assert torch.equal(rgba[..., 3], mask)


@pytest.mark.parametrize(
    ("box", "margin", "kept"),
    [
        ((30, 10, 45, 20), 0, (30, 10, 45, 20)),
        ((30, 10, 45, 20), 8, (22, 2, 53, 28)),
        ((0, 0, 5, 5), 8, (0, 0, 13, 13)),
        ((50, 38, 56, 40), 8, (42, 30, 56, 40)),
        ((20, 20, 21, 21), 4096, (0, 0, 56, 40)),
    ],
)
def test_a_cropped_cut_out_is_the_thing_and_its_margin(box, margin, kept):
    left, top, right, bottom = kept
    (whole,) = cut_out(image=picture(), mask=box_mask(box))
    (rgba,) = cut_out(image=picture(), mask=box_mask(box), crop=True, margin=margin)
    assert torch.equal(rgba, whole[:, top:bottom, left:right])


def test_pictures_of_a_batch_are_cropped_alike_around_all_their_things():
    mask = torch.cat([box_mask((5, 6, 10, 12)), box_mask((20, 30, 25, 33)), box_mask()])
    (rgba,) = cut_out(image=picture(3), mask=mask, crop=True, margin=1)
    assert rgba.shape == (3, 33 - 6 + 2, 25 - 5 + 2, 4)
    assert [alpha.sum().item() for alpha in rgba[..., 3]] == [30, 15, 0]


@pytest.mark.parametrize("crop", [False, True])
def test_an_empty_mask_gives_a_fully_transparent_cut_out(crop):
    (rgba,) = cut_out(image=picture(), mask=box_mask(), crop=crop)
    assert rgba.shape == (1, 40, 56, 4)
    assert not rgba[..., 3].any()


@pytest.mark.parametrize("shape", [(2, 64, 64), (1, 40, 56), (3, 40, 56)])
@pytest.mark.parametrize("crop", [False, True])
def test_a_mask_of_other_pictures_is_refused_with_both_sizes(crop, shape):
    with pytest.raises(ConceptAttentionError) as refused:
        cut_out(image=picture(2), mask=torch.ones(shape), crop=crop)
    assert str(refused.value) == (
        f"The pictures are 2 of 40 x 56 pixels, the mask has the shape {shape}. "
        "Connect the same image to Concept Masks."
    )


def test_save_image_keeps_the_alpha_of_a_cut_out(output):
    (rgba,) = cut_out(image=picture(), mask=box_mask((3, 4, 9, 9)))
    call(stock.SaveImage, images=rgba, filename_prefix="thing")
    (name,) = files_in(output)
    saved = Image.open(output / name)
    assert saved.mode == "RGBA"
    assert np.array_equal(np.asarray(saved), (rgba[0] * 255).round().byte().numpy())


def composited(items: list[dict], canvas: tuple[int, int]) -> torch.Tensor:
    """What the layers look like on nothing, `h w rgba`, by core's own rules.

    A layer's mask is its transparency: 1 is what does not show, as in Load Image. (Core's Add
    Layer: "Masked areas (value 1) become transparent".)
    """
    if compositor is not None:
        document = {"version": 1, "canvas": canvas, "layers": items}
        shown = call(compositor.ImageCompositor, layers=document, compositor={})[0][0]
        opaque = torch.ones_like(shown[..., :1])
        return shown if shown.shape[-1] == 4 else torch.cat([shown, opaque], -1)
    out = torch.zeros(canvas[1], canvas[0], 4)
    for item in items:
        _, h, w, _ = item["image"].shape
        place = out[item["y"] : item["y"] + h, item["x"] : item["x"] + w]
        alpha = 1 - item["mask"][0, ..., None] if "mask" in item else torch.ones(h, w, 1)
        place[..., :3] = place[..., :3] * (1 - alpha) + item["image"][0, ..., :3] * alpha
        place[..., 3:] = place[..., 3:] * (1 - alpha) + alpha
    return out


def test_layers_are_the_picture_and_above_it_each_thing_in_order():
    pixels = picture()
    masks = [box_mask((3, 4, 9, 20)), box_mask(), box_mask((0, 30, 56, 40))]
    document = layers_of(pixels, masks, ["sun", "moon", "🎈 sky"])
    assert (document["version"], document["canvas"]) == (1, (56, 40))
    items = document["layers"]
    assert [item["name"] for item in items] == ["picture", "sun", "🎈 sky"]
    assert [item["z_index"] for item in items] == [0, 1, 2]
    assert {item["type"] for item in items} == {"raster"}
    assert [(item["x"], item["y"]) for item in items] == [(0, 0), (3, 4), (0, 30)]
    assert torch.equal(items[0]["image"], pixels)
    assert torch.equal(items[1]["image"], pixels[:, 4:20, 3:9])
    assert torch.equal(items[2]["image"], pixels[:, 30:40])
    for item in items[1:]:
        assert item["mask"].shape == item["image"].shape[:3]


@few
@given(st.integers(0, 39), st.integers(0, 55), st.integers(1, 40), st.integers(1, 56))
def test_each_layer_shows_its_thing_and_nothing_else(top, left, h, w):
    mask = box_mask((left, top, left + w, top + h))
    mask[:, (top + h) // 2, (left + w) // 2] = 0.5
    mask[:, top, left] = 1
    pixels = picture()
    document = layers_of(pixels, [mask], ["thing"])
    shown = composited(document["layers"][1:], document["canvas"])
    assert (shown[..., 3] - mask[0]).abs().max() <= 1 / 255
    inside = mask[0] == 1
    assert (shown[..., :3] - pixels[0])[inside].abs().max() <= 1 / 255


def test_layers_that_tile_the_picture_need_none_below():
    pixels = picture()
    document = layers_of(pixels, thirds(), ["a", "b", "c"])
    assert len(document["layers"]) == 4
    shown = composited(document["layers"][1:], document["canvas"])
    assert (shown[..., 3] == 1).all()
    assert (shown[..., :3] - pixels[0]).abs().max() <= 1 / 255


@newer_comfyui
def test_layers_obey_the_type_that_core_publishes():
    from comfy_api.latest import io

    document = layers_of(picture(2), [torch.cat([mask] * 2) for mask in thirds()], ["a", "b", "c"])
    assert Layers.GET_SCHEMA().outputs[0].io_type == io.Layers.io_type
    assert set(document) <= set(io.Layers.Document.__annotations__)
    for item in document["layers"]:
        assert {"image", "type", "z_index"} <= set(item) <= set(io.Layers.LayerItem.__annotations__)
    assert compositor.document_canvas(document) == (56, 40)
    frames = compositor.expand_item_frames(compositor.document_items(document))
    assert [frame["name"] for frame in frames] == ["picture", "a", "b", "c"]
    for frame, item in zip(frames, document["layers"], strict=True):
        assert (frame["x"], frame["y"]) == (item["x"], item["y"])
        assert (frame["h"], frame["w"]) == item["image"].shape[1:3]
        assert torch.equal(frame["tensor"], item["image"])


@newer_comfyui
def test_core_can_add_a_layer_on_top():
    document = layers_of(picture(), thirds(), ["a", "b", "c"])
    logo = torch.zeros(1, 4, 5, 3)
    (more,) = run(compositor.AddLayer, layers=document, image=logo, name="logo", x=50, z_index=9)
    assert more["canvas"] == (56, 40)
    names = [item["name"] for item in compositor.document_items(more)]
    assert names == ["picture", "a", "b", "c", "logo"]


def test_of_a_batch_layers_show_the_first_picture():
    pixels, mask = picture(3), torch.cat([box_mask((1, 2, 5, 6)), torch.ones(2, 40, 56)])
    transparent = torch.cat([pixels, torch.zeros(3, 40, 56, 1)], -1)
    below, thing = layers_of(transparent, [mask], ["thing"])["layers"]
    assert torch.equal(below["image"], pixels[:1])
    assert torch.equal(thing["image"], pixels[:1, 2:6, 1:5])


def test_masks_and_names_of_different_nodes_are_refused():
    with pytest.raises(ConceptAttentionError, match="3 masks and 2 names.*the same Concept Masks"):
        layers_of(picture(), thirds(), ["a", "b"])


def test_layers_of_a_mask_of_another_size_are_refused():
    with pytest.raises(ConceptAttentionError, match=r"1 of 40 x 56 .* shape \(1, 64, 64\)"):
        layers_of(picture(), [torch.ones(1, 64, 64)], ["a"])
