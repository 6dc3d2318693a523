"""Pictures that come as a list: each keeps its own masks, or a sentence says why it cannot."""

import folder_paths
import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.nodes.layers import CutOut, Layers, SaveMasks
from conceptattention.nodes.regions import Regions
from PIL import Image

from ..comfyui.graphs import changed, node, painting, pictures
from .common import TINY_FLUX, Clip, box_mask, image, rows_of, thirds

NAMES = ["sun", "moon", "sky"]
TWO = [image(1), 1 - image(1)]


def flipped() -> list[torch.Tensor]:
    return [mask.flip(2) for mask in thirds()]


def layers(pictures: list, masks: list, names: list) -> list[dict]:
    with torch.inference_mode():
        return Layers.execute(image=pictures, masks=masks, names=names).result[0]


def test_each_picture_of_a_list_gets_a_stack_with_its_own_masks():
    together = layers(TWO, thirds() + flipped(), NAMES * 2)
    alone = layers(TWO[:1], thirds(), NAMES) + layers(TWO[1:], flipped(), NAMES)
    assert len(together) == len(alone) == 2
    for one, other in zip(together, alone, strict=True):
        assert [item["name"] for item in one["layers"]] == ["picture", *NAMES]
        for item, same in zip(one["layers"], other["layers"], strict=True):
            assert torch.equal(item["image"], same["image"])
            assert (item["x"], item["y"]) == (same["x"], same["y"])


def test_pictures_of_a_list_may_have_other_sizes_and_other_concepts():
    small = image(1, 24, 32)
    names = ["sun", "sky", "sun"]
    first, second = layers(
        [TWO[0], small], [*thirds()[:2], box_mask((1, 2, 5, 6), h=24, w=32)], names
    )
    assert first["canvas"] == (56, 40)
    assert second["canvas"] == (32, 24)
    assert [item["name"] for item in second["layers"]] == ["picture", "sun"]


@pytest.mark.parametrize(
    ("pictures", "names", "told"),
    [
        (TWO, ["sun", "moon", "sky"], "2 pictures, and masks of 1"),
        (TWO * 2, NAMES * 2, "4 pictures, and masks of 2"),
    ],
)
def test_masks_that_cannot_be_told_apart_are_refused(pictures, names, told):
    with pytest.raises(ConceptAttentionError, match=told):
        layers(pictures, thirds() * (len(names) // 3), names)


def regions(masks: list, names: list, bases: list, prompts: list) -> list:
    with torch.inference_mode():
        return Regions.execute(
            clip=[Clip()], conditioning=bases, masks=masks, names=names, prompts=prompts,
            strength=[1.0], only_mentioned=[False],
        ).result[0]  # fmt: skip


def test_each_picture_of_a_list_gets_the_regions_of_its_own_masks():
    base = TINY_FLUX.prompt(1)
    made = regions(thirds() + flipped(), NAMES * 2, [base], ["sun: gold"])
    assert [len(one) for one in made] == [len(base) + 3] * 2
    for one, masks in zip(made, (thirds(), flipped()), strict=True):
        added = one[len(base) :]
        assert all(torch.equal(options["mask"], mask) for (_, options), mask in zip(added, masks))
        assert torch.equal(added[0][0], rows_of("gold"))


def test_each_picture_of_a_list_may_have_its_own_prompts():
    bases = [TINY_FLUX.prompt(1), TINY_FLUX.prompt(2)]
    prompts = ["sun: gold", "sun: a coin"]
    made = regions(thirds() + flipped(), NAMES * 2, bases, prompts)
    assert [one[0] is base[0] for one, base in zip(made, bases, strict=True)] == [True, True]
    assert torch.equal(made[0][1][0], rows_of("gold"))
    assert torch.equal(made[1][1][0], rows_of("a coin"))


def test_prompts_for_more_pictures_than_there_are_masks_of_are_refused():
    with pytest.raises(ConceptAttentionError, match="3 prompts for whole pictures, and masks of 2"):
        regions(thirds() + flipped(), NAMES * 2, [TINY_FLUX.prompt(1)] * 3, [""])


def test_masks_of_a_list_of_pictures_are_saved_by_name_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    masks = thirds() + flipped()
    with torch.inference_mode():
        shown = SaveMasks.execute(masks, NAMES * 2, ["masks"]).ui.as_dict()["images"]
    assert [one["filename"] for one in shown] == [
        f"{name}_0000{picture}_.png" for picture in (1, 2) for name in NAMES
    ]
    for mask, one in zip(masks, shown, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "masks" / one["filename"]).convert("L"))
        assert np.array_equal(pixels, mask[0].numpy() * 255)


def cut(pictures: list, masks: list) -> list:
    with torch.inference_mode():
        return CutOut.execute(image=pictures, mask=masks, crop=[False], margin=[0]).result[0]


def test_each_picture_of_a_list_is_cut_out_by_its_own_masks():
    made = cut(TWO, thirds() + flipped())
    for n, (rgba, mask) in enumerate(zip(made, thirds() + flipped(), strict=True)):
        assert torch.equal(rgba[..., :3], TWO[n // 3])
        assert torch.equal(rgba[..., 3], mask)


def test_a_picture_for_each_mask_and_one_for_all_are_cut_out_as_before():
    one_each = cut(TWO, thirds()[:2])
    one_for_all = cut(TWO[:1], thirds())
    assert [torch.equal(rgba[..., :3], one) for rgba, one in zip(one_each, TWO)] == [True] * 2
    assert all(torch.equal(rgba[..., :3], TWO[0]) for rgba in one_for_all)


def test_masks_that_are_no_multiple_of_the_pictures_are_refused():
    with pytest.raises(ConceptAttentionError, match="3 masks and 2 pictures"):
        cut(TWO, thirds())


def test_a_list_goes_through_a_server_and_each_picture_keeps_its_masks(server):
    """A batch taken apart into lists gives what each picture gives by itself."""
    graph = painting(batch=2, seed=31)
    graph["masks"]["inputs"]["threshold"] = "competition"
    graph["latents"] = node("RebatchLatents", latents=["sampler", 0], batch_size=1)
    graph["images"] = node("RebatchImages", images=["decode", 0], batch_size=1)
    both = {"masks": ["masks", 0], "names": ["masks", 1]}
    graph |= {
        "cut": node("ConceptAttentionCutOut", image=["images", 0], mask=["masks", 0], crop=False,
                    margin=0),
        "cuts": node("PreviewImage", images=["cut", 0]),
        "files": node("ConceptAttentionSaveMasks", mask=["masks", 0], name=["masks", 1],
                      folder="lists/masks"),
        "layers": node("ConceptAttentionLayers", image=["images", 0], **both),
        "psd": node("ConceptAttentionSaveLayers", layers=["layers", 0], filename_prefix="lists/x"),
        "regions": node("ConceptAttentionRegions", clip=["demo", 1], conditioning=["prompt", 0],
                        **both, prompts="", strength=1.0, only_mentioned=False),
        "second": changed(graph, sampler={"positive": ["regions", 0], "model": ["demo", 0]})[
            "sampler"
        ],
        "decoded": node("VAEDecode", samples=["second", 0], vae=["demo", 2]),
        "steered": node("PreviewImage", images=["decoded", 0]),
    }  # fmt: skip
    whole_batch = {"image": ["decode", 0]}
    batch = server.queue(changed(graph, cut=whole_batch, layers=whole_batch))
    graph["maps"]["inputs"]["latent"] = ["latents", 0]
    listed = server.queue(graph)
    assert listed.outputs["psd"]["text"] == ["x_00002_.psd", "x_00003_.psd"]
    assert [one["filename"] for one in listed.outputs["files"]["images"]] == [
        f"{word}_0000{n}_.png" for n in (3, 4) for word in ("balloon", "sky", "water")
    ]
    whole = np.stack(pictures(server, batch, "shown")).reshape(3, 2, 128, 128, 3)
    apart = np.stack(pictures(server, listed, "shown")).reshape(2, 3, 128, 128, 3)
    assert np.array_equal(apart.swapaxes(0, 1), whole)
    cuts = np.stack(pictures(server, listed, "cuts")).reshape(2, 3, 128, 128, 4)
    images = np.stack(pictures(server, listed, "picture"))
    assert np.array_equal(cuts[..., 3], apart[..., 0])
    assert np.array_equal(cuts[..., :3], np.broadcast_to(images[:, None], (2, 3, 128, 128, 3)))
    assert len(pictures(server, listed, "steered")) == 4  # a batch of two for each conditioning
