"""Picture files of every kind, and names for their results."""

import numpy as np
import pytest
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.images import list_images, read_image
from PIL import Image

RED = (255, 0, 0)


def make(path, mode="RGB", colour=RED, size=(6, 4), **saving):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **saving)
    return path


def test_a_folder_gives_its_pictures_in_order_and_nothing_else(tmp_path):
    make(tmp_path / "b.png")
    make(tmp_path / "a.jpg")
    make(tmp_path / "deep" / "er" / "c c.webp")
    make(tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = list_images([tmp_path])
    assert [picture.name for picture in found] == ["a", "b", "deep/er/c_c"]
    assert found[2].path == tmp_path / "deep" / "er" / "c c.webp"


def test_names_are_safe_and_each_ones_own(tmp_path):
    for name in ("cat.jpg", "cat.png", "CAT.webp", "con.png", "sea.jpg", "sea/x.png"):
        make(tmp_path / name)
    names = [picture.name for picture in list_images([tmp_path])]
    assert len({name.casefold() for name in names}) == 6
    assert "con_" in names
    assert "sea/x" in names and "sea_jpg" in names  # no result inside another's folder


def test_the_same_picture_counts_once(tmp_path):
    file = make(tmp_path / "a.png")
    assert len(list_images([file, tmp_path, file])) == 1


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ConceptAttentionError, match=r"no picture or folder .*gone\.png"):
        list_images([tmp_path / "gone.png"])
    with pytest.raises(ConceptAttentionError, match="No pictures in"):
        list_images([tmp_path])


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", RED, RED),
        ("L", 70, (70, 70, 70)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("LA", (0, 51), (204, 204, 204)),
        ("I;16", 257 * 99, (99, 99, 99)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_every_mode_is_seen_as_it_is_meant(tmp_path, mode, colour, expected):
    ending = "tif" if mode == "CMYK" else "png"
    pixels = read_image(make(tmp_path / f"a.{ending}", mode, colour))
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8
    assert tuple(pixels[0, 0]) == expected


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    assert read_image(make(tmp_path / "a.jpg", exif=exif)).shape == (6, 4, 3)


def test_what_is_no_picture_is_named(tmp_path):
    text = tmp_path / "a.png"
    text.write_text("no")
    with pytest.raises(ConceptAttentionError, match=r"a\.png is no picture"):
        read_image(text)
    whole = make(tmp_path / "b.png", size=(400, 400), colour=(1, 2, 3))
    whole.write_bytes(whole.read_bytes()[:-60])
    with pytest.raises(ConceptAttentionError, match=r"b\.png is broken"):
        read_image(whole)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ConceptAttentionError, match="floating-point"):
        read_image(make(tmp_path / "c.tif", "F", 0.5))
