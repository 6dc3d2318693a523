"""Nodes that put maps and masks to use: layers, files, boxes, regions, scores, sheets, parts."""

import errno
import json
import os
import sys
import time
import urllib.request
from pathlib import Path

import comfy.sample
import comfy_extras.nodes_mask as masking
import folder_paths
import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.maps import measure_presence, read_maps
from conceptattention.conceptattention_core.masks import MaskSpec, draw_masks
from conceptattention.conceptattention_core.output import render
from conceptattention.conceptattention_core.output.layers import find_bounds
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec
from conceptattention.nodes.layers import CutOut, Layers, SaveLayers, SaveMasks
from conceptattention.nodes.masks import Masks, Pick, Split
from conceptattention.nodes.record import Maps
from conceptattention.nodes.regions import Boxes, Regions
from conceptattention.nodes.scores import Gate, Scores
from conceptattention.nodes.view import Explorer, Labels, Sheet
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nodes as stock

from .graphs import WORDS, changed, node, painting, pictures
from .test_nodes import HALVES, TINY_FLUX, defaults, image, run, sampled, territories
from .tiny import POOLED_WIDTH, WordReader, call

try:
    import comfy_extras.nodes_bounding_boxes as core_boxes
    import comfy_extras.nodes_compositor as compositor
except ImportError:  # an older ComfyUI
    compositor = core_boxes = None
newer_comfyui = pytest.mark.skipif(compositor is None, reason="this ComfyUI has no layers")

SIXTY_FOUR = ",".join(f"thing {i}" for i in range(64))
few = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    """An output folder of this test's own."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def picture(batch: int = 1, h: int = 40, w: int = 56) -> torch.Tensor:
    """Pixels that 8 bits hold exactly."""
    return (image(batch, h, w) * 255).round() / 255


def box_mask(*boxes: tuple[int, int, int, int], h: int = 40, w: int = 56) -> torch.Tensor:
    """One picture's mask with these boxes: left, top, right, bottom."""
    mask = torch.zeros(1, h, w)
    for left, top, right, bottom in boxes:
        mask[:, top:bottom, left:right] = 1
    return mask


# --- Cut Out --------------------------------------------------------------------------------------


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
def test_cropped_it_is_the_thing_and_its_margin_as_far_as_the_picture_goes(box, margin, kept):
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
def test_of_an_empty_mask_it_is_fully_transparent_and_as_large_as_the_picture(crop):
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


# --- Concept Layers -------------------------------------------------------------------------------


def layers_of(pixels: torch.Tensor, masks: list[torch.Tensor], names: list[str]) -> dict:
    (stack,) = call(Layers, image=[pixels], masks=masks, names=names)[0]
    return stack


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


def thirds() -> list[torch.Tensor]:
    """Three masks that tile 40 by 56 pixels; none is a rectangle."""
    owner = (torch.arange(40)[:, None] * 3 + torch.arange(56)[None] * 2) // 80
    return [(owner == i).float()[None] for i in range(3)]


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


def test_layers_that_tile_the_picture_are_the_picture_without_the_one_below():
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


# --- Save Layers ----------------------------------------------------------------------------------


def save_layers(document: dict, prefix: str = "ConceptAttention/layers") -> Path:
    return Path(run(SaveLayers, layers=document, filename_prefix=prefix)[0])


@pytest.fixture
def psd_tools():
    return pytest.importorskip("psd_tools")


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


# --- Save Named Masks -----------------------------------------------------------------------------


def save_masks(mask: torch.Tensor, name: str, folder: str = "masks") -> list[str]:
    """The files that the node says it has saved, in the output folder."""
    return save_all_masks([mask], [name], folder)


def save_all_masks(masks: list, names: list[str], folder: str = "masks") -> list[str]:
    with torch.inference_mode():
        done = SaveMasks.execute(masks, names, [folder])
    assert all(one is other for one, other in zip(done.result[0], masks, strict=True))
    found = done.ui.as_dict()["images"]
    assert {one["type"] for one in found} == {"output"}
    return [f"{one['subfolder']}/{one['filename']}" for one in found]


def test_masks_are_written_exactly_under_their_names(output):
    masks = torch.cat([box_mask((3, 4, 9, 20)), 1 - box_mask((3, 4, 9, 20))])
    found = save_masks(masks, "red hot sky", "my/own folder")
    assert found == [f"my/own folder/red_hot_sky_0000{i}_.png" for i in (1, 2)]
    assert files_in(output) == found
    for mask, name in zip(masks, found, strict=True):
        pixels = np.asarray(Image.open(output / name).convert("L"))
        assert np.array_equal(pixels, mask.numpy() * 255)


NASTY = ["a/b", "..", ".", "../../etc/passwd", "CON", "nul", "a:b*?\"<>|", "%year%", "🎈", "سماء",
         "日本の空", "x" * 200, "\U00020000" * 200, " sun ", "a\nb", "-", "_"]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_whatever_a_concept_is_called_its_file_is_safe_and_in_its_folder(output, name):
    (found,) = save_masks(box_mask((1, 1, 2, 2)), name)
    assert files_in(output) == [found]
    folder, _, file = found.partition("/")
    assert folder == "masks"
    assert "/" not in file and len(file.encode()) <= 255
    assert not set(file) & set('\\:*?"<>|%\n') and not file.startswith((".", " "))
    assert file.split(".")[0].casefold() not in {"con", "nul"}
    assert not (output.parent.parent / "etc").exists()


@pytest.mark.parametrize("names", [["sun", "sun"], ["a/b", "a b", "a?b"], ["🎈", "🌞"],
                                   ["sun", "sun_2", "sun 7", "sun"]])  # fmt: skip
def test_nothing_is_ever_replaced(output, names):
    masks = [box_mask((i, i, i + 5, i + 5)) for i in range(2 * len(names))]
    found = [save_masks(mask, name)[0] for mask, name in zip(masks, names * 2, strict=True)]
    assert len(set(found)) == len(masks)
    assert files_in(output) == sorted(found)
    for mask, name in zip(masks, found, strict=True):
        pixels = np.asarray(Image.open(output / name).convert("L"))
        assert np.array_equal(pixels, mask[0].numpy() * 255)


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["🎈", "🌞", "red 🎈"], ["balloon", "sun_with_face", "red_balloon"]),
        (["a/b", "a b", "a?b"], ["a_b", "a_b_2", "a_b_3"]),
        (["Sun", "sun"], ["sun", "sun_2"]),
        (["boat"], ["boat", "boat_2", "boat_3"]),  # one name for the parts of a mask
        (["???", "!"], ["concept_0", "concept_1"]),
    ],
)
def test_masks_that_are_saved_together_get_different_names(output, names, files):
    masks = [box_mask((i, i, i + 5, i + 5)) for i in range(len(files))]
    assert save_all_masks(masks, names) == [f"masks/{file}_00001_.png" for file in files]
    for mask, file in zip(masks, files, strict=True):
        pixels = np.asarray(Image.open(output / "masks" / f"{file}_00001_.png").convert("L"))
        assert np.array_equal(pixels, mask[0].numpy() * 255)


def test_more_names_than_masks_are_refused(output):
    with pytest.raises(ConceptAttentionError, match="1 masks and 2 names.*the same Concept Masks"):
        save_all_masks([box_mask()], ["a", "b"])
    assert files_in(output) == []


def test_names_that_differ_in_case_alone_get_files_that_differ_in_more(output):
    found = save_masks(box_mask(), "Sun") + save_masks(box_mask(), "sun")
    assert len({name.casefold() for name in found}) == 2


def test_without_a_folder_masks_lie_in_the_output_folder(output):
    save_masks(box_mask(), "sun", "")
    assert files_in(output) == ["sun_00001_.png"]


@pytest.mark.parametrize("folder", ["../elsewhere", "/elsewhere", "a/../../b", "masks/../.."])
def test_a_folder_outside_of_the_output_folder_is_refused(output, folder):
    before = files_in(output.parent)
    with pytest.raises(Exception, match="outside the output folder is not allowed"):
        save_masks(box_mask(), "sun", folder)
    document = layers_of(picture(), thirds()[:1], ["a"])
    with pytest.raises(Exception, match="outside the output folder is not allowed"):
        save_layers(document, f"{folder}/stack")
    assert files_in(output.parent) == before


def explore(prefix: str = "ConceptAttention/explorer", batch: int = 1) -> tuple:
    maps = hot_maps(1, 1, batch=batch)
    return run(Explorer, maps=maps, image=image(batch, 32, 48), filename_prefix=prefix)


WRITERS = {
    "masks": lambda folder: save_masks(box_mask(), "sun", folder),
    "layers": lambda folder: save_layers(layers_of(picture(), thirds()[:1], ["a"]), f"{folder}/x"),
    "explorer": lambda folder: explore(f"{folder}/x"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_place_that_cannot_be_written_to_is_named(output, write):
    (output / "taken").write_text("a file where a folder should be")
    with pytest.raises(ConceptAttentionError) as refused:
        write("taken/one")
    told = str(refused.value)
    assert told.startswith(f"Nothing can be written to {output / 'taken' / 'one'}: ")
    assert told.endswith(", or name another place in the output folder.")
    assert (output / "taken").read_text() == "a file where a folder should be"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_folder_that_takes_no_file_is_named_with_the_reason(output, monkeypatch, write, number):
    plain = open

    def refuse(file, mode="r", *args, **kwargs):
        if set(mode) & set("wxa+") and str(file).startswith(str(output)):
            raise OSError(number, os.strerror(number), str(file))
        return plain(file, mode, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)  # pathlib's
    with pytest.raises(ConceptAttentionError) as refused:
        write("place")
    assert str(refused.value).startswith(
        f"Nothing can be written to {output / 'place'}: {os.strerror(number)}. Let ComfyUI write"
    )
    assert files_in(output) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may write anywhere")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_read_only_folder_is_named(output, write):
    output.chmod(0o555)
    with pytest.raises(ConceptAttentionError, match="Nothing can be written to"):
        write("place")


# --- Concept Boxes --------------------------------------------------------------------------------


def edges_of(boxes: list[dict]) -> list[tuple[int, int, int, int]]:
    return [
        (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in boxes
    ]


def test_a_box_holds_the_mask_and_no_pixel_more():
    mask = box_mask((3, 4, 9, 20), (30, 10, 31, 11))
    (boxes,), bbox, segs, _ = run(Boxes, mask=mask, name="sun")
    assert boxes == [{"x": 3, "y": 4, "width": 28, "height": 16, "label": "sun"}]
    assert bbox == [(3, 4, 31, 20)]
    assert [segment.bbox for segment in segs[1]] == bbox


def test_each_part_gets_a_box_the_largest_first():
    parts = [(30, 10, 33, 12), (3, 4, 9, 20), (50, 38, 56, 40)]
    (boxes,), bbox, segs, _ = run(Boxes, mask=box_mask(*parts), name="sun", each_part=True)
    expected = [parts[i] for i in (1, 2, 0)]
    assert edges_of(boxes) == bbox == [segment.bbox for segment in segs[1]] == expected


@few
@given(st.integers(0, 50), st.integers(0, 36), st.integers(0, 60))
def test_a_margin_widens_a_box_as_far_as_the_picture_goes(left, top, margin):
    mask = box_mask((left, top, left + 5, top + 3))
    (boxes,), bbox, *_ = run(Boxes, mask=mask, name="a", margin=margin)
    expected = (
        max(0, left - margin), max(0, top - margin),
        min(56, left + 5 + margin), min(40, top + 3 + margin),
    )  # fmt: skip
    assert edges_of(boxes) == bbox == [expected]


@pytest.mark.parametrize("each_part", [False, True])
def test_an_empty_mask_has_no_boxes(each_part):
    found = run(Boxes, mask=box_mask(), name="sun", each_part=each_part, margin=5)
    assert found == ([[]], [], ((40, 56), []), "[]")


def test_each_picture_of_a_batch_has_its_own_boxes():
    masks = torch.cat(
        [box_mask(), box_mask((1, 2, 3, 4), (20, 20, 30, 30)), box_mask((5, 6, 7, 8))]
    )
    boxes, bbox, segs, _ = run(Boxes, mask=masks, name="sun", each_part=True)
    assert [edges_of(one) for one in boxes] == [
        [], [(20, 20, 30, 30), (1, 2, 3, 4)], [(5, 6, 7, 8)]
    ]  # fmt: skip
    assert (bbox, segs[1]) == ([], [])  # of the first picture


@few
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), min_size=1, max_size=3),
    st.floats(1, 10), st.integers(0, 9), st.booleans(),
)  # fmt: skip
def test_segs_are_what_the_impact_pack_reads(corners, factor, margin, each_part):
    mask = box_mask(*((x, y, x + 6, y + 9) for x, y in corners))
    segs = run(
        Boxes, mask=mask, name="sun", each_part=each_part, margin=margin, crop_factor=factor
    )[2]
    assert isinstance(segs, tuple) and segs[0] == (40, 56)
    assert isinstance(segs[1], list) and segs[1]
    back = torch.zeros(40, 56)
    for segment in segs[1]:
        assert segment._fields == (
            "cropped_image", "cropped_mask", "confidence", "crop_region", "bbox", "label",
            "control_net_wrapper",
        )  # fmt: skip
        assert (segment.label, segment.confidence) == ("sun", 1.0)
        assert segment.cropped_image is None and segment.control_net_wrapper is None
        left, top, right, bottom = segment.crop_region
        box = segment.bbox
        assert 0 <= left <= box[0] < box[2] <= right <= 56
        assert 0 <= top <= box[1] < box[3] <= bottom <= 40
        assert isinstance(segment.cropped_mask, np.ndarray)
        assert segment.cropped_mask.dtype == np.float32
        assert segment.cropped_mask.shape == (bottom - top, right - left)
        back[top:bottom, left:right] += torch.from_numpy(segment.cropped_mask)
    if each_part:
        assert torch.equal(back, mask[0])
    else:
        assert torch.equal(back > 0, mask[0] > 0)


def test_a_crop_factor_shows_so_much_more_of_the_picture_than_the_box():
    mask = box_mask((20, 12, 30, 18))
    regions = [
        run(Boxes, mask=mask, name="a", crop_factor=factor)[2][1][0].crop_region
        for factor in (1.0, 2.0, 3.0, 10.0)
    ]
    assert regions == [(20, 12, 30, 18), (15, 9, 35, 21), (10, 6, 40, 24), (0, 0, 56, 40)]


@newer_comfyui
def test_core_draws_the_boxes_where_the_masks_are():
    from comfy_extras.nodes_rtdetr import DrawBBoxes

    masks = torch.cat([box_mask((10, 12, 40, 30)), box_mask()])
    boxes = run(Boxes, mask=masks, name="sun")[0]
    assert [box["x"] for box in core_boxes.boxes_from_input(boxes, 56, 40)] == [10]
    (drawn,) = call(DrawBBoxes, bboxes=boxes, image=torch.zeros(2, 40, 56, 3))
    touched = drawn.sum(-1) > 0
    assert find_bounds(touched[0]) == (10, 12, 41, 31)  # its lines end on the box's sides
    assert not touched[0, 15:28, 13:38].any()
    assert not touched[1].any()


@pytest.mark.parametrize("each_part", [False, True])
def test_a_point_lies_inside_each_part_the_largest_first(each_part):
    parts = [(3, 4, 10, 21), (30, 10, 35, 13), (50, 38, 51, 39)]  # the last one is a speck
    masks = torch.cat([box_mask(*parts), box_mask((0, 0, 56, 40))])
    points = json.loads(run(Boxes, mask=masks, name="sun", each_part=each_part)[3])
    assert len(points) == 2
    for point, (left, top, right, bottom) in zip(points, parts):
        assert left + 1 <= point["x"] < right - 1 and top + 1 <= point["y"] < bottom - 1


class Sam3:
    """Core's SAM 3 without weights: it notes what it is asked and answers with the same shape."""

    def __init__(self):
        self.model = self.diffusion_model = self
        self.boxes, self.points = [], []

    def get_dtype(self):
        return torch.float32

    def forward_segment(self, frame, point_inputs=None, box_inputs=None, mask_inputs=None):
        if point_inputs is not None:
            assert point_inputs["point_labels"].eq(1).all()
            self.points.append(point_inputs["point_coords"][0])
        if box_inputs is not None:
            self.boxes.append(box_inputs[0])
        return torch.ones(1, 1, 8, 8)


@pytest.mark.parametrize("each_part", [False, True])
def test_core_s_sam_3_gets_boxes_and_points_where_the_parts_are(monkeypatch, each_part):
    sam = pytest.importorskip("comfy_extras.nodes_sam3")
    monkeypatch.setattr(sam.comfy.model_management, "load_model_gpu", lambda model: None)
    inputs = {one.id: one.io_type for one in sam.SAM3_Detect.GET_SCHEMA().inputs}
    types = [one.io_type for one in Boxes.GET_SCHEMA().outputs]
    assert (inputs["bboxes"], inputs["positive_coords"]) == (types[0], types[3])
    parts = [(3, 4, 10, 21), (30, 10, 35, 13)]
    boxes, _, _, points = run(Boxes, mask=box_mask(*parts), name="sun", each_part=each_part)
    model = Sam3()
    call(sam.SAM3_Detect, model=model, image=picture(), bboxes=boxes, positive_coords=points)
    scale = torch.tensor([56, 40]) / 1008
    asked = [(box * scale).flatten().round().int().tolist() for box in model.boxes]
    assert asked == [list(part) for part in parts] if each_part else asked == [[3, 4, 35, 21]]
    (coords,) = model.points
    for (x, y), (left, top, right, bottom) in zip(coords * scale, parts, strict=True):
        assert left < x < right and top < y < bottom
    empty = run(Boxes, mask=box_mask(), name="sun")
    model = Sam3()
    call(sam.SAM3_Detect, model=model, image=picture(), bboxes=empty[0], positive_coords=empty[3])
    assert not model.boxes and not model.points


# --- Prompt Regions -------------------------------------------------------------------------------


class Clip(WordReader):
    def encode_from_tokens_scheduled(self, tokens):
        rows = self.encode_from_tokens(tokens, return_dict=True)["cond"]
        return [[rows, {"pooled_output": torch.ones(1, POOLED_WIDTH)}]]


def regions(masks: list[torch.Tensor], names: list[str], base=None, **widgets) -> list:
    widgets = {"prompts": "", "strength": 1.0, "only_mentioned": False, **widgets}
    with torch.inference_mode():
        (made,) = Regions.execute(
            clip=[Clip()],
            conditioning=[TINY_FLUX.prompt(1) if base is None else base],
            masks=masks,
            names=names,
            **{name: [value] for name, value in widgets.items()},
        ).result[0]
    return made


def rows_of(prompt: str) -> torch.Tensor:
    return Clip().encode_from_tokens_scheduled(Clip().tokenize(prompt))[0][0]


def test_regions_follow_the_prompt_for_the_whole_picture():
    base = TINY_FLUX.prompt(1) + TINY_FLUX.prompt(4, strength=0.3)
    made = regions(thirds(), ["sun", "moon", "sky"], base, strength=0.7)
    assert len(base) == 2  # it is somebody else's
    assert all(one is other for one, other in zip(made[:2], base))
    for (rows, options), mask, name in zip(made[2:], thirds(), ["sun", "moon", "sky"], strict=True):
        assert torch.equal(rows, rows_of(name))
        assert torch.equal(options["mask"], mask)
        assert options["mask_strength"] == 0.7
        assert options["set_area_to_bounds"] is False
        assert torch.equal(options["pooled_output"], torch.ones(1, POOLED_WIDTH))
        assert options["guidance"] == 3.5
        assert "strength" not in options


def test_a_region_says_no_guidance_where_the_prompt_has_none():
    ((_, options),) = regions(thirds()[:1], ["sun"], [[rows_of("a"), {}]])[1:]
    assert "guidance" not in options


def test_an_empty_mask_makes_no_region():
    made = regions([box_mask(), *thirds()[:1]], ["sun", "moon"])
    assert [torch.equal(rows, rows_of("moon")) for rows, _ in made[1:]] == [True]


def test_prompts_find_their_masks_by_name_in_any_case():
    made = regions(
        thirds(), ["Sun", "red sky", "日本"],
        prompts="RED  SKY: a storm\n日本： snow, deep\nsun: a (golden:1.3) disc".replace("  ", " "),
    )  # fmt: skip
    expected = ["a (golden:1.3) disc", "a storm", "snow, deep"]
    assert all(torch.equal(one[0], rows_of(words)) for one, words in zip(made[1:], expected))
    assert len({one[0].sum().item() for one in made[1:]}) == 3


def test_only_mentioned_masks_make_a_region_when_asked_for():
    widgets = {"only_mentioned": True, "prompts": "moon: cheese"}
    (region,) = regions(thirds(), ["sun", "moon", "sky"], **widgets)[1:]
    assert torch.equal(region[0], rows_of("cheese"))
    assert torch.equal(region[1]["mask"], thirds()[1])
    assert len(regions(thirds(), ["sun", "moon", "sky"], only_mentioned=True)) == 1


def test_a_prompt_for_no_mask_is_refused_with_the_names_there_are():
    with pytest.raises(ConceptAttentionError) as refused:
        regions(thirds(), ["sun", "moon", "red sky"], prompts="sun: a\nmars: b")
    assert str(refused.value) == (
        "'prompts' mentions 'mars', which is none of the masks' names: sun, moon, red sky."
    )


def test_a_mask_called_background_can_have_its_own_prompt():
    made = regions(thirds()[:2], ["cat", "background"], prompts="background: a dark forest")
    assert torch.equal(made[2][0], rows_of("a dark forest"))


def left_half() -> torch.Tensor:
    return box_mask((0, 0, 32, 64), h=64, w=64).expand(2, -1, -1)


def test_a_region_changes_the_picture_where_its_mask_is():
    base = TINY_FLUX.prompt(1)
    plain = TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), steps=1)
    made = regions([left_half()], ["a golden cat"], base)
    steered = TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), steps=1, positive=made)
    change = (steered - plain).abs().amax(1)
    assert change[:, :, :4].min() > 1e-4
    assert change[:, :, 4:].max() < 1e-5  # in a single step; later ones see the left half
    weak = regions([left_half()], ["a golden cat"], base, strength=0.1)
    weakly = TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), steps=1, positive=weak)
    assert (weakly - plain).abs().max() < (steered - plain).abs().max() / 2


@pytest.mark.parametrize("other", [(1, 64, 64), (3, 40, 56)])
def test_masks_of_different_pictures_make_no_regions_together(other):
    masks = [thirds()[0].expand(2, -1, -1), torch.ones(other)]
    with pytest.raises(ConceptAttentionError) as refused:
        regions(masks, ["sun", "sky"])
    n, h, w = other
    assert str(refused.value) == (
        f"The masks belong to different pictures: sun 2 of 40 x 56, sky {n} of {h} x {w}. "
        "Connect those of one Concept Masks."
    )


def test_a_single_mask_is_a_region_of_every_picture():
    base = TINY_FLUX.prompt(1)
    one, both = (
        regions([mask, left_half()], ["a cat", "a dog"], base)
        for mask in (left_half()[:1], left_half())
    )
    painted = [TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), positive=it) for it in (one, both)]
    assert torch.equal(*painted)


def test_masks_of_another_size_are_scaled_to_the_picture():
    base = TINY_FLUX.prompt(1)
    large = box_mask((0, 0, 128, 256), h=256, w=256).expand(2, -1, -1)
    painted = [
        TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), positive=regions([mask], ["cat"], base))
        for mask in (large, left_half())
    ]
    assert torch.equal(*painted)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_recording_changes_nothing_beside_regions_and_is_found(cfg):
    second = box_mask((10, 20, 60, 60), h=64, w=64)
    made = regions([left_half(), second], ["cat", "red dog"])
    plain = TINY_FLUX.sample(TINY_FLUX.model(), (2, 8, 8), cfg=cfg, positive=made)
    recorded = TINY_FLUX.sample(TINY_FLUX.recorded(), (2, 8, 8), cfg=cfg, positive=made)
    assert torch.equal(recorded, plain)
    scores = STORE.find(recorded).scores
    assert len(scores) == 2 and scores.isfinite().all()


# --- Concept Scores and Concept Gate --------------------------------------------------------------

CORNER = [[0, 1, 1, 1], *[[1] * 4] * 3]
"""One sixteenth cat, the rest red dog, no sky."""


@pytest.mark.parametrize("names", ["cat, red dog, sky", "cat, red dog", SIXTY_FOUR, "🎈"])
def test_scores_are_those_of_presence_as_table_and_as_json(names):
    background = parse(names).names[-1] == "background"
    maps = territories(CORNER, HALVES, names=names)
    text, found, absent = run(Scores, maps=maps)
    shown = [[figures[c] for c in maps.concepts.shown] for figures in measure_presence(maps)]
    assert json.loads(found) == [
        [
            {"name": one.name, "coverage": one.coverage, "peak": one.peak, "mean": one.mean,
             "present": one.present}
            for one in figures
        ]
        for figures in shown
    ]  # fmt: skip
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("picture ")] == ["picture 1", "picture 2"]
    assert len(lines) == 2 * (1 + len(maps.concepts.shown))
    for figures, block in zip(shown, (lines[: len(lines) // 2], lines[len(lines) // 2 :])):
        for one, line in zip(figures, block[1:], strict=True):
            assert line.startswith(one.name)
            assert f"{one.coverage:.1%}" in line and line.endswith("absent") != one.present
    missing = [one.name for one in shown[0] if not one.present]
    assert absent == ", ".join(missing)
    assert ("background" in text + found + absent) is False or not background


def test_absent_names_what_some_picture_does_not_show():
    maps = territories([[1, 1], [1, 1]], [[0, 0], [2, 2]])
    assert run(Scores, maps=maps)[2] == "cat, sky, red dog"
    assert run(Scores, maps=territories([[0, 1], [2, 2]]))[2] == ""


def test_scores_are_shown_on_the_node():
    done = Scores.execute(territories(HALVES))
    assert done.ui.as_dict()["text"] == (done.result[0],)
    assert "picture 1" not in done.result[0]  # there is just one


SEEDS = territories([[1] * 4] * 4, HALVES, CORNER, [[2, 2, 0, 1]] * 4, HALVES)


def gate(pixels: torch.Tensor, maps=SEEDS, **widgets) -> tuple[torch.Tensor, str]:
    through, positions, latent = run(Gate, maps=maps, image=pixels, **widgets)
    assert latent is None
    return through, positions


@pytest.mark.parametrize(
    ("widgets", "passed"),
    [
        ({"names": "cat"}, [1, 2, 3, 4]),
        ({"names": "RED DOG,\ncat"}, [1, 2, 3, 4]),
        ({"names": "cat", "coverage": 6.25}, [1, 2, 3, 4]),
        ({"names": "cat", "coverage": 6.3}, [1, 3, 4]),
        ({"names": "cat", "coverage": 25.1}, [1, 4]),
        ({}, [3]),
        ({"names": " , "}, [3]),
        ({"coverage": 0.0}, [0, 1, 2, 3, 4]),
        ({"names": "red dog", "coverage": 100.0}, [0]),
    ],
)
def test_a_gate_lets_those_through_that_show_what_was_named(widgets, passed):
    pixels = picture(5)
    through, positions = gate(pixels, **widgets)
    assert torch.equal(through, pixels[passed])
    assert positions == ", ".join(map(str, passed))


def test_a_gate_can_ask_for_the_hidden_background():
    maps = territories([[0, 0]], [[1, 0]], names="cat")
    assert gate(picture(2), maps, names="background")[1] == "1"
    assert gate(picture(2), maps)[1] == "0, 1"  # all that were named: cat


def test_a_gate_knows_sixty_four_concepts():
    everything = [[8 * y + x for x in range(8)] for y in range(8)]
    maps = territories(everything, [[0] * 8] * 8, names=SIXTY_FOUR)
    assert gate(picture(2), maps)[1] == "0"
    assert gate(picture(2), maps, names="thing 0")[1] == "0, 1"


@pytest.mark.parametrize("percent", [10, 30, 70, 90])
def test_a_gate_lets_through_what_has_exactly_the_coverage(percent):
    owners = [[int(i >= percent // 10) for i in range(10)]]
    assert gate(picture(), territories(owners), names="cat", coverage=float(percent))[1] == "0"


def test_where_nothing_passes_a_gate_blocks_and_says_why():
    done = Gate.execute(SEEDS, picture(5), "cat, Sky", 80.0)
    assert done.block_execution == (
        "Concept Gate: none of 5 pictures shows cat, sky, each on at least 80 % of it. "
        "Another seed, or a lower coverage?"
    )
    assert not any(one is not None for one in done.result or ())


def test_a_gate_lets_latents_through_with_their_pictures():
    samples, masks = torch.rand(5, 4, 3, 2), torch.rand(5, 1, 24, 16)
    latent = {"samples": samples, "noise_mask": masks, "kind": "something"}
    kept = run(Gate, maps=SEEDS, image=picture(5), latent=latent, names="cat", coverage=10.0)[2]
    assert torch.equal(kept["samples"], samples[[1, 3, 4]])
    assert torch.equal(kept["noise_mask"], masks[[1, 3, 4]])
    assert (kept["batch_index"], kept["kind"]) == ([1, 3, 4], "something")
    assert set(latent) == {"samples", "noise_mask", "kind"}  # it is somebody else's
    later = {"samples": samples, "noise_mask": masks[:2], "batch_index": [7, 2, 9, 4, 5]}
    kept = run(Gate, maps=SEEDS, image=picture(5), latent=later, names="cat", coverage=10.0)[2]
    assert kept["batch_index"] == [2, 4, 5]
    assert torch.equal(kept["noise_mask"], masks[[1, 1, 0]])
    with pytest.raises(ConceptAttentionError, match="latent batch has 4 items, .* 5 pictures"):
        run(Gate, maps=SEEDS, image=picture(5), latent={"samples": samples[:4]})


def test_a_picked_seed_can_be_sampled_further():
    """The same noise, and the maps of it are still found."""
    _, latent = sampled(batch=3)
    (maps,) = run(Maps, latent=latent)
    cover = [figures[0].coverage for figures in measure_presence(maps)]
    best = max(range(3), key=lambda b: cover[b])
    widgets = {"names": "cat", "coverage": cover[best] * 100}
    through, passed, kept = run(Gate, maps=maps, image=image(3), latent=latent, **widgets)
    assert str(best) in passed.split(", ") and len(kept["samples"]) == len(through)
    (alone,) = run(Maps, latent=kept)
    assert torch.equal(alone.maps, maps.maps[[int(b) for b in passed.split(", ")]])
    plain = {"samples": torch.zeros(3, TINY_FLUX.channels, 5, 7)}
    noise = comfy.sample.prepare_noise(plain["samples"], 1)
    again = comfy.sample.prepare_noise(kept["samples"], 1, kept["batch_index"])
    assert torch.equal(again, noise[kept["batch_index"]])


def test_a_gate_refuses_unknown_names_and_other_pictures():
    with pytest.raises(ConceptAttentionError, match="named 'moon'. Recorded: cat, red dog, sky"):
        gate(picture(5), names="cat, moon")
    with pytest.raises(ConceptAttentionError, match="batch has 3 pictures, the maps belong to 5"):
        gate(picture(3))


# --- Concept Label Map and Concept Map Sheet ------------------------------------------------------


def saved_values(numbers: torch.Tensor, output: Path) -> np.ndarray:
    (shown,) = call(masking.MaskToImage, mask=numbers)
    call(stock.SaveImage, images=shown, filename_prefix="labels")
    return np.stack([np.asarray(Image.open(output / name))[..., 0] for name in files_in(output)])


def test_saved_numbers_are_positions_of_all_sixty_four_concepts(output):
    owners = torch.randperm(64, generator=torch.Generator().manual_seed(0)).view(8, 8)
    maps = territories(owners.tolist(), names=SIXTY_FOUR)
    views, numbers = run(Labels, maps=maps, image=torch.full((1, 128, 128, 3), 0.4))
    assert numbers.shape == (1, 128, 128)
    assert np.array_equal(saved_values(numbers, output)[0, 8::16, 8::16], owners)
    assert views.shape[1] > 128  # a legend below
    for y in range(8):
        for x in range(8):
            shown = tuple((views[0, 16 * y + 8, 16 * x + 8] * 255).round().int().tolist())
            assert shown == render.concept_colour(owners[y, x].item())


def test_the_hidden_background_has_the_last_number_and_no_colour(output):
    maps = territories(HALVES, [[1, 1, 0, 0]] * 4, names="cat")
    views, numbers = run(Labels, maps=maps, image=torch.full((2, 64, 64, 3), 0.4))
    expected = np.repeat([[0, 1], [1, 0]], 32, axis=1)[:, None].repeat(64, 1)
    assert np.array_equal(saved_values(numbers, output), expected)
    flat = (views[:, :64] * 255).round().byte().numpy()
    assert (flat[expected == 0] == render.concept_colour(0)).all()
    assert (flat[expected == 1] == render.PAPER).all()
    legends = (views[:, 64:] * 255).round().byte().numpy()
    for b, strip in enumerate(legends):
        assert np.array_equal(
            strip, render.draw_legend(maps.concepts, measure_presence(maps)[b], 64)
        )


@pytest.mark.parametrize("size", [(37, 51), (200, 300)])
def test_numbers_have_the_size_of_the_picture(size):
    views, numbers = run(Labels, maps=territories(HALVES), image=image(1, *size))
    assert numbers.shape == (1, *size)
    assert views.shape[2] == size[1] and views.shape[1] > size[0]
    assert set((numbers * 255).unique().tolist()) == {0, 1}


def test_labels_of_another_batch_are_refused():
    with pytest.raises(ConceptAttentionError, match="batch has 3 pictures, the maps belong to 1"):
        run(Labels, maps=territories(HALVES), image=image(3))


BRIGHT = torch.from_numpy(render.draw_heat_map(torch.ones(1, 1), 0, 1)[0, 0].copy()).float() / 255


def hot_maps(step: int, block: int, steps: int = 4, blocks: int = 3, batch: int = 1):
    """Maps in which the cat is known in one block and step alone, in picture 0."""
    scores = torch.zeros(batch, steps, blocks, 3, 2, 3)
    scores[0, step, block, 0] = 9
    at, within = (tuple((i, i) for i in range(count)) for count in (steps, blocks))
    spec = RecordSpec(parse("cat, red dog, sky"))
    return read_maps(Recording(scores, spec, Grid.of_latent(4, 6), at, within, "Tiny"))


def bright_box(view: torch.Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is hot."""
    rows, columns = ((view - BRIGHT).abs().amax(-1) < 1e-3).nonzero(as_tuple=True)
    return (
        columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1
    )  # fmt: skip


def test_a_sheet_shows_blocks_from_top_to_bottom_and_steps_from_left_to_right():
    found = {
        (step, block): bright_box(run(Sheet, maps=hot_maps(step, block), name="Cat")[0][0])
        for step in range(4)
        for block in range(3)
    }
    left, top, right, bottom = found[0, 0]
    h, w = bottom - top, right - left
    assert abs(h / w - 2 / 3) < 0.02
    for (step, block), box in found.items():
        assert (box[2] - box[0], box[3] - box[1]) == (w, h)
        across, down = (found[1, 0][0] - left) * step, (found[0, 1][1] - top) * block
        assert box[:2] == (left + across, top + down)
    assert found[1, 0][0] - left >= w and found[0, 1][1] - top >= h
    (view,) = run(Sheet, maps=hot_maps(0, 0), name="cat")[0]
    assert ((view - BRIGHT).abs().amax(-1) < 1e-3).sum() == h * w  # nothing else is hot


def test_of_many_steps_and_blocks_a_sheet_shows_twenty_from_the_first_to_the_last():
    sizes = {}
    for steps, blocks in ((20, 20), (50, 57)):
        first, last = (
            run(Sheet, maps=hot_maps(*at, steps, blocks), name="cat")[0][0]
            for at in ((0, 0), (steps - 1, blocks - 1))
        )
        sizes[steps] = first.shape, bright_box(first), bright_box(last)
    assert sizes[20] == sizes[50]


def test_each_picture_gets_its_sheet_and_they_are_shown():
    with torch.inference_mode():
        done = Sheet.execute(hot_maps(1, 1, batch=3), "cat")
    (views,) = done.result
    assert len(views) == len(done.ui.as_dict()["images"]) == 3
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views[1], views[2])


def test_a_real_recording_makes_a_sheet():
    _, latent = sampled()
    (maps,) = run(Maps, latent=latent, steps="0", blocks="last 1", temperature=0.5)
    sheets = [run(Sheet, maps=maps, name=name)[0] for name in ("cat", "red dog")]
    assert sheets[0].shape == sheets[1].shape and sheets[0].shape[0] == 2
    assert not torch.equal(sheets[0], sheets[1])


def test_a_sheet_refuses_unknown_concepts():
    with pytest.raises(ConceptAttentionError, match="named 'moon'. Recorded: cat, red dog, sky"):
        run(Sheet, maps=hot_maps(0, 0), name="moon")


# --- Concept Explorer -----------------------------------------------------------------------------


def test_each_picture_gets_its_own_explorer_file(output):
    paths = [Path(path) for path in explore("one/two", batch=2)[0]]
    assert files_in(output) == ["one/two_00001_.html", "one/two_00002_.html"]
    assert [str(path.relative_to(output)) for path in paths] == files_in(output)
    assert all("cat" in path.read_text("utf-8") for path in paths)


def test_an_explorer_of_another_batch_is_refused(output):
    with pytest.raises(ConceptAttentionError, match="batch has 3 pictures, the maps belong to 2"):
        run(Explorer, maps=hot_maps(1, 1, batch=2), image=image(3, 32, 48))
    assert files_in(output) == []


# --- Split Mask into Parts ------------------------------------------------------------------------


def test_parts_come_by_size_each_picture_of_a_batch_by_itself():
    masks = torch.cat(
        [box_mask((0, 0, 2, 2), (10, 10, 20, 20), (30, 0, 34, 4)), box_mask((5, 5, 8, 8)),
         box_mask()]
    )  # fmt: skip
    parts, numbers = run(Split, mask=masks, islands=0.0)
    assert numbers == [1, 2, 3]
    assert [part.shape for part in parts] == [(3, 40, 56)] * 3
    assert [part.sum((1, 2)).tolist() for part in parts] == [[100, 9, 0], [16, 0, 0], [4, 0, 0]]
    assert torch.equal(sum(parts), masks)


def test_parts_below_a_percentage_of_the_picture_are_left_out():
    mask = box_mask((0, 0, 16, 14), (20, 0, 20 + 8, 14), (40, 0, 47, 16))  # 10, 5 and 5 %
    for islands, kept in ((0.0, 3), (5.0, 3), (5.1, 1), (10.0, 1), (10.1, 1)):
        parts, numbers = run(Split, mask=mask, islands=islands)
        assert numbers == list(range(1, kept + 1))
        assert bool(parts[0].any()) == (islands <= 10)


def test_an_empty_mask_is_one_empty_part():
    parts, numbers = run(Split, mask=box_mask())
    assert numbers == [1] and torch.equal(parts[0], box_mask())


@few
@given(st.lists(st.tuples(st.integers(0, 55), st.integers(0, 39)), max_size=40))
def test_parts_together_are_the_mask_and_never_overlap(pixels):
    mask = box_mask(*((x, y, x + 2, y + 1) for x, y in pixels))
    parts, _ = run(Split, mask=mask, islands=0.0)
    assert torch.equal(sum(parts), mask)
    sizes = [part.sum().item() for part in parts]
    assert sizes == sorted(sizes, reverse=True)


# --- How masks are finished -----------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_widgets_that_an_old_prompt_lacks_mean_their_defaults(soft):
    maps, pixels = territories([[0, 1, 1, 2], [0, 0, 1, 2]] * 2), image(1, 64, 64)
    old = {"threshold": "mean", "level": 0.5, "soft": soft, "keep_absent": False}
    masks, _ = call(Masks, maps=maps, image=pixels, **old)
    complete, _ = run(Masks, maps=maps, image=pixels, **old)
    assert all(torch.equal(one, other) for one, other in zip(masks, complete, strict=True))
    (picked,) = call(Pick, maps=maps, image=pixels, name="cat", invert=False, **old)
    assert torch.equal(picked, masks[0])


WIDGETS = {
    "threshold": st.sampled_from(["mean", "otsu", "fixed", "hysteresis", "competition"]),
    "level": st.floats(0, 1), "soft": st.booleans(), "keep_absent": st.booleans(),
    "edges": st.booleans(), "contrast": st.floats(0.1, 20), "fill_holes": st.booleans(),
    "islands": st.floats(0, 20), "largest": st.booleans(), "grow": st.integers(-6, 6),
    "feather": st.integers(0, 6), "edge_radius": st.integers(0, 40),
    "edge_smoothness": st.floats(1e-4, 1),
}  # fmt: skip


@few
@given(st.fixed_dictionaries(WIDGETS), st.integers(0, 9))
def test_what_the_widgets_say_is_how_masks_are_drawn(widgets, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = territories(torch.randint(0, 3, (4, 4), generator=generator).tolist())
    pixels = image(1, 64, 64)
    spec = MaskSpec(
        edges=widgets["edges"], threshold=widgets["threshold"], amount=widgets["level"],
        soft=widgets["soft"], contrast=widgets["contrast"], keep_absent=widgets["keep_absent"],
        holes=widgets["fill_holes"], islands=widgets["islands"] / 100, largest=widgets["largest"],
        grow=widgets["grow"], feather=widgets["feather"], radius=widgets["edge_radius"],
        smoothness=widgets["edge_smoothness"],
    )  # fmt: skip
    expected = draw_masks(maps, spec=spec, image=pixels)
    masks, _ = run(Masks, maps=maps, image=pixels, **widgets)
    assert torch.equal(torch.stack(masks), expected)
    for invert in (False, True):
        (picked,) = run(Pick, maps=maps, image=pixels, name="sky", invert=invert, **widgets)
        assert torch.equal(picked, 1 - expected[2] if invert else expected[2])


def test_grow_and_feather_count_pixels_and_islands_percent():
    maps = territories([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]])

    def cat(**widgets) -> torch.Tensor:
        return run(Pick, maps=maps, name="cat", threshold="fixed", **widgets)[0][0]

    plain = cat()
    small = plain[48:, 48:].sum().item() / 64**2  # of the picture
    assert 0 < small < plain[:32, :32].sum() / 64**2
    assert cat(islands=small * 100 - 0.1)[48:, 48:].any()
    without = cat(islands=small * 100 + 0.1)
    assert not without[48:, 48:].any()
    assert torch.equal(without[:40, :40], plain[:40, :40])

    reach = int(plain[0].nonzero().max())
    assert int(cat(grow=5)[0].nonzero().max()) == reach + 5
    assert int(cat(grow=-5)[0].nonzero().max()) == reach - 5
    soft = cat(feather=4)[0]
    assert (soft[: reach - 3] == 1).all()
    assert not soft[reach + 5 : 64].any()
    assert ((soft > 0) & (soft < 1)).sum() >= 4


@pytest.mark.parametrize("size", [(37, 51), (64, 64), (101, 67)])
@pytest.mark.parametrize("names", ["cat", "cat, red dog, sky"])
def test_masks_of_a_competition_and_of_the_background_tile_an_odd_picture(names, size):
    wanted = parse(names, background=True)
    generator = torch.Generator().manual_seed(3)
    owners = torch.randint(0, len(wanted), (2, 4, 4), generator=generator).tolist()
    maps = territories(*owners, names=f"{names}, background")
    pixels = image(2, *size)
    masks, found = run(Masks, maps=maps, image=pixels, threshold="competition")
    assert found == list(wanted.names)
    assert torch.equal(sum(masks), torch.ones(2, *size))


def test_a_competition_keeps_what_a_concept_has_won_on_less_than_half_a_percent():
    owners = [[0] * 15 for _ in range(15)]
    owners[7][7] = 1  # one of 225 patches: absent, by the rule for other thresholds
    masks, _ = run(Masks, maps=territories(owners), threshold="competition")
    assert masks[1].any()
    assert torch.equal(sum(masks), torch.ones(1, 240, 240))


def test_with_a_hidden_background_competing_masks_leave_it_the_rest():
    _, latent = sampled(background=True)
    (maps,) = run(Maps, latent=latent, order="mean, then softmax")
    pixels = image(2, 37, 51)
    masks, names = run(Masks, maps=maps, image=pixels, threshold="competition")
    assert names == ["cat", "red dog", "sky"]
    (rest,) = run(Pick, maps=maps, image=pixels, name="background", threshold="competition")
    assert torch.equal(sum(masks) + rest, torch.ones(2, 37, 51))


# --- On a real server -----------------------------------------------------------------------------


def tools() -> dict:
    """The demo paints two pictures, and everything is made of them."""
    graph = painting(batch=2)
    graph["masks"]["inputs"]["threshold"] = "competition"
    named = {"mask": ["masks", 0], "name": ["masks", 1]}
    both = {"masks": ["masks", 0], "names": ["masks", 1]}
    base = {"clip": ["demo", 1], "conditioning": ["prompt", 0]}
    seen = {"maps": ["maps", 0], "image": ["decode", 0]}
    steer = {"prompts": "water: grass, sky: a dark sky with a moon", "strength": 2.0}
    again = changed(graph, sampler={"model": ["demo", 0], "positive": ["regions", 0]})
    return {
        **graph,
        "files": node("ConceptAttentionSaveMasks", **named, folder="tools/masks"),
        "layers": node("ConceptAttentionLayers", image=["decode", 0], **both),
        "psd": node("ConceptAttentionSaveLayers", layers=["layers", 0], filename_prefix="tools/x"),
        "scores": node("ConceptAttentionScores", maps=["maps", 0]),
        "sheet": node("ConceptAttentionSheet", maps=["maps", 0], name="sky"),
        "labels": node("ConceptAttentionLabels", **seen),
        "numbers": node("MaskToImage", mask=["labels", 1]),
        "shown numbers": node("PreviewImage", images=["numbers", 0]),
        "parts": node("ConceptAttentionSplit", mask=["masks", 0], islands=1.0),
        "converted": node("MaskToImage", mask=["parts", 0]),
        "shown parts": node("PreviewImage", images=["converted", 0]),
        "cut": node("ConceptAttentionCutOut", image=["decode", 0], mask=["masks", 0], crop=False,
                    margin=0),
        "shown cut": node("PreviewImage", images=["cut", 0]),
        "regions": node("ConceptAttentionRegions", **base, **both, **steer,
                        only_mentioned=False),
        "second": again["sampler"],
        "decoded": node("VAEDecode", samples=["second", 0], vae=["demo", 2]),
        "steered": node("PreviewImage", images=["decoded", 0]),
        "boxes": node("ConceptAttentionBoxes", mask=["masks", 0], name=["masks", 1],
                      each_part=True, margin=0, crop_factor=2.0),
        "shown points": node("PreviewAny", source=["boxes", 3]),
        "gate": node("ConceptAttentionGate", **seen, names="", coverage=0.0,
                     latent=["sampler", 0]),
        "passed latent": node("VAEDecode", samples=["gate", 2], vae=["demo", 2]),
        "passed again": node("PreviewImage", images=["passed latent", 0]),
        "passed": node("PreviewImage", images=["gate", 0]),
    }  # fmt: skip


def queue_with_workflow(server, graph: dict, workflow: dict) -> dict:
    """Run a prompt as the page does it, with the workflow for the files; the outputs."""
    body = {"prompt": graph, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    request = urllib.request.Request(f"{server.url}/prompt", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        prompt_id = json.load(answer)["prompt_id"]
    end = time.monotonic() + 180
    while time.monotonic() < end:
        if found := server.get(f"/history/{prompt_id}"):
            return found[prompt_id]["outputs"]
        time.sleep(0.1)
    raise TimeoutError(server.log()[-4000:])


def test_all_tools_work_on_a_server(server):
    result = server.queue(tools())
    words = WORDS.split(", ")
    images = np.stack(pictures(server, result, "picture"))
    files = result.outputs["files"]["images"]
    assert [one["filename"] for one in files] == [
        f"{word}_0000{i}_.png" for word in words for i in (1, 2)
    ]
    masks = np.stack([server.image(one)[..., 0] for one in files]).reshape(3, 2, 128, 128)
    assert (masks.astype(int).sum(0) == 255).all()
    labels = np.stack(pictures(server, result, "shown numbers"))[..., 0]
    assert labels.max() <= 2
    cut = np.stack(pictures(server, result, "shown cut")).reshape(3, 2, 128, 128, 4)
    assert np.array_equal(cut[..., 3], masks)
    assert np.array_equal(cut[..., :3], np.broadcast_to(images, (3, *images.shape)))
    parts = np.stack(pictures(server, result, "shown parts"))
    assert len(parts) >= 6 and set(np.unique(parts)) <= {0, 255}
    for passed in ("passed", "passed again"):
        assert np.array_equal(np.stack(pictures(server, result, passed)), images)
    assert len(pictures(server, result, "sheet")) == 2
    (text,) = result.outputs["scores"]["text"]
    assert all(word in text for word in words)
    assert result.outputs["psd"]["text"] == ["x_00001_.psd"]
    points = [json.loads(text) for text in result.outputs["shown points"]["text"]]
    for mask, own in zip(masks[:, 0], points, strict=True):
        assert bool(own) == mask.any()
        assert all(mask[point["y"], point["x"]] == 255 for point in own)
    psd = pytest.importorskip("psd_tools").PSDImage.open(
        server.folder / "output" / "tools" / "x_00001_.psd"
    )
    assert psd.size == (128, 128)
    present = [word for word, mask in zip(words, masks[:, 0]) if mask.any()]
    assert [layer.name for layer in psd] == ["picture", *present]
    steered = np.stack(pictures(server, result, "steered")).astype(int)
    assert np.abs(steered - images).mean() > 1


def test_saved_masks_carry_the_prompt_and_the_workflow(server):
    graph = {**painting("sun, sky", seed=5), "files": node(
        "ConceptAttentionSaveMasks", mask=["masks", 0], name=["masks", 1], folder="carried",
    )}  # fmt: skip
    workflow = {"nodes": [], "note": "日本 🎈"}
    saved = [
        one
        for _ in range(2)
        for one in queue_with_workflow(server, graph, workflow)["files"]["images"]
    ]
    assert {one["subfolder"] for one in saved} == {"carried"}
    for one in saved:
        held = Image.open(server.folder / "output" / "carried" / one["filename"]).text
        assert json.loads(held["workflow"]) == workflow
        assert json.loads(held["prompt"]) == graph


def test_a_closed_gate_stops_what_follows_it_and_nothing_else(server):
    graph = changed(tools(), gate={"names": "balloon", "coverage": 100.0})
    for name in ("psd", "files", "steered", "sheet", "passed again"):
        del graph[name]
    graph["scores"]["inputs"]["maps"] = ["maps", 0]
    result = server.queue(graph, check=False)
    assert "Concept Gate: none of 2 pictures shows balloon" in result.error
    assert result.error_node == "passed"
    assert "passed" not in result.outputs
    assert {"scores", "picture", "shown cut"} <= set(result.outputs)


@pytest.mark.parametrize("line", ["a golden balloon", "sun:", ": gold"])
def test_a_line_that_names_no_region_is_refused(line):
    with pytest.raises(ConceptAttentionError, match="one 'name: prompt' per line"):
        regions(thirds(), ["sun", "moon", "sky"], prompts=line)
