"""What maps can be asked for, and the images that they take."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.maps import read_maps
from conceptattention.conceptattention_core.masks import MaskSpec, draw_masks
from conceptattention.conceptattention_core.output.export import save_image_files
from conceptattention.conceptattention_core.output.rendered import RenderedMaps
from conceptattention.conceptattention_core.pixels import read_pixels, to_bytes, to_floats
from PIL import Image

from .examples import random, recording, soft_maps

IMAGE = np.random.default_rng(0).integers(0, 256, (104, 56, 3), dtype=np.uint8)
FLOATS = IMAGE.astype(np.float32) / 255
KINDS = {
    "PIL": Image.fromarray(IMAGE),
    "PIL with alpha": Image.fromarray(np.dstack([IMAGE, IMAGE[..., :1]])),
    "uint8": IMAGE,
    "four channels": np.dstack([IMAGE, IMAGE[..., :1]]),
    "float32": FLOATS,
    "float64": FLOATS.astype(np.float64),
    "tensor": torch.from_numpy(FLOATS),
    "tensor of uint8": torch.from_numpy(IMAGE),
    "ComfyUI's IMAGE": torch.from_numpy(FLOATS)[None],
}
OTHERS = {
    "text": ("sky.png", "got str"),
    "grey": (IMAGE[..., 0], "got uint8 of 104 x 56"),
    "channels first": (IMAGE.transpose(2, 0, 1), "got uint8 of 3 x 104 x 56"),
    "two images": (np.stack([IMAGE] * 2), "got uint8 of 2 x 104 x 56 x 3"),
    "whole numbers": (IMAGE.astype(np.int64), "got int64 of 104 x 56 x 3"),
    "floats to 255": (IMAGE.astype(np.float32), "got values 0 to 255"),
    "NaN": (np.full((4, 4, 3), np.nan), "got values nan to nan"),
    "nothing": (np.zeros((0, 4, 3)), "got float64 of 0 x 4 x 3"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_any_kind_gives_the_same_masks(kind):
    maps = soft_maps(1)
    drawn = draw_masks(maps, image=to_floats(IMAGE)[None])[:, 0].numpy()
    found = maps.masks(KINDS[kind])
    assert list(found) == ["balloon", "sun", "red hot sky"]
    for name, mask in zip(found, drawn):
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], mask)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_images_are_refused_in_one_sentence(kind):
    image, told = OTHERS[kind]
    with pytest.raises(ConceptAttentionError, match=f"^An image is a PIL image, .*; {told}.$"):
        soft_maps(1).masks(image)


def test_an_image_is_not_changed():
    own = torch.from_numpy(FLOATS.copy())
    read_pixels(own).mul_(1)
    assert np.array_equal(to_bytes(read_pixels(IMAGE)), IMAGE)
    assert np.array_equal(own.numpy(), FLOATS)


def test_settings_of_masks_are_keywords():
    maps, image = soft_maps(1), to_floats(IMAGE)[None]
    spec = MaskSpec(threshold="otsu", soft=True, edges=False)
    expected = draw_masks(maps, spec=spec, image=image)[:, 0].numpy()
    found = maps.masks(IMAGE, threshold="otsu", soft=True, edges=False)
    assert all(np.array_equal(*both) for both in zip(found.values(), expected))


def test_without_an_image_masks_have_the_size_that_the_latent_decodes_to():
    assert {mask.shape for mask in soft_maps(1).masks().values()} == {(104, 56)}


def test_views_are_pil_images():
    maps = soft_maps(1)
    assert np.array_equal(maps.overlay(IMAGE), RenderedMaps(maps, IMAGE).overlay())
    assert np.array_equal(maps.overlay(IMAGE, 0.2), RenderedMaps(maps, IMAGE).overlay(0.2))
    assert list(maps.heat_maps()) == ["balloon", "sun", "red hot sky"]
    assert np.array_equal(maps.heat_maps()["sun"], RenderedMaps(maps).heat_map(1))


def test_saved_files_are_those_of_the_command_line(tmp_path):
    maps = soft_maps(1)
    (tmp_path / "one").mkdir()
    report = save_image_files(tmp_path / "one", IMAGE, maps, MaskSpec(soft=True))
    assert maps.save(tmp_path / "two" / "deep", IMAGE, soft=True) == report
    assert json.loads((tmp_path / "two" / "deep" / "report.json").read_text()) == report

    def contents(folder: Path) -> dict[str, bytes]:
        files = [file for file in folder.rglob("*") if file.is_file()]
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}

    both = contents(tmp_path / "one"), contents(tmp_path / "two" / "deep")
    assert both[1].pop("report.json")
    assert both[0] == both[1]


@pytest.mark.parametrize(
    "verb",
    [
        lambda maps: maps.masks(IMAGE),
        lambda maps: maps.overlay(IMAGE),
        lambda maps: maps.heat_maps(),
        lambda maps: maps.save("nowhere", IMAGE),
    ],
)
def test_maps_of_several_images_have_to_be_taken_apart(verb):
    with pytest.raises(ConceptAttentionError, match="of 2 images.*as maps.of_image"):
        verb(soft_maps(2))
    assert len(soft_maps(2)) == 2
    assert not Path("nowhere").exists()


def test_maps_and_recordings_are_shown_in_one_line():
    found = recording(random(2, 4, 6, 3, 3, 7))
    assert repr(found) == (
        "Recording(Tiny, balloon, sun, red hot sky: 2 images, 4 steps x 6 blocks, 0.0 MiB)"
    )
    assert repr(read_maps(found)) == (
        "ConceptMaps(balloon, sun, red hot sky: 2 images of 3 x 7 patches, steps all, "
        "blocks last half)"
    )


def test_maps_and_recordings_are_equal_to_themselves_alone():
    found, other = (recording(random(1, 1, 1, 3, 2, 2)) for _ in range(2))
    assert found == found and found != other
    assert read_maps(found) != read_maps(found)
    assert len({found, other, read_maps(found)}) == 3


def test_a_notebook_shows_the_heat_maps_of_the_first_image():
    maps = soft_maps(2)
    shown = Image.open(io.BytesIO(maps._repr_png_()))
    assert np.array_equal(shown, RenderedMaps(maps.of_image(0)).sheet())
