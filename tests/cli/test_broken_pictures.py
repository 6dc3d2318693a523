"""One bad picture never ends a run: it is an outcome that names its file."""

import io
import os
import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError, images
from conceptattention.conceptattention_core.cli.segmenting import segment_images
from conceptattention.conceptattention_core.files import quote
from conceptattention.conceptattention_core.images import (
    ImageFile,
    UnreadableKindError,
    is_out_of_memory,
    list_images,
    read_image,
)
from conceptattention.conceptattention_core.recording import Grid
from PIL import Image, ImageCms, features

from ..core.examples import soft_maps
from .common import SETTINGS, Locator

KINDS = ("png", "jpg", "gif", "bmp", "tif", "webp", "dds", "ico", "tga", "ppm", "psd", "blp", "pcx")
KINDS += ("avif",) if features.check("avif") else ()


def save(kind: str, tmp_path: Path) -> bytes:
    """A small whole picture of a kind."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    image = Image.fromarray(noise)
    if kind == "psd":  # which Pillow does not write
        return (
            b"8BPS"
            + struct.pack(">H6xHIIHHIII", 1, 3, 24, 32, 8, 3, 0, 0, 0)
            + b"\0\0"
            + (noise.transpose(2, 0, 1).tobytes())
        )
    file = tmp_path / f"whole.{kind}"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = 6, "maker", "somebody"
    if kind in ("jpg", "webp", "avif", "tif"):
        image.save(file, exif=exif)
    else:
        (image.quantize() if kind == "blp" else image).save(file)
    return file.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_altered_in_a_file_it_is_read_or_named(kind, tmp_path):
    whole, chance = save(kind, tmp_path), random.Random(kind)
    file = tmp_path / f"spoilt.{kind}"
    for trial in range(150):
        spoilt = bytearray(whole)
        if trial % 3 == 0:
            del spoilt[chance.randrange(len(spoilt)) :]
        near = min(len(spoilt), 160 if trial % 2 else len(spoilt))
        for _ in range(chance.choice((1, 3, 12)) if near else 0):
            spoilt[chance.randrange(near)] = chance.choice((0, 1, 127, 255, chance.randrange(256)))
        file.write_bytes(bytes(spoilt))
        try:
            seen = read_image(file)
        except ConceptAttentionError as error:
            assert file.name in str(error) and "\n" not in str(error)
        except OSError as error:
            assert error.errno is not None
        else:
            assert seen.ndim == 3 and seen.dtype == np.uint8


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to decode"),
        NotImplementedError("Unimplemented compression"),
        struct.error("unpack requires a buffer"),
        TypeError("no integer"),
        AttributeError("rawmode"),
        MemoryError(),
        KeyError("x"),
        RecursionError("too deep"),
    ],
)
def test_whatever_a_decoder_raises_is_an_outcome_and_the_rest_goes_on(tmp_path, monkeypatch, error):
    for name in ("a", "b"):
        Image.new("RGB", (64, 48), "red").save(tmp_path / f"{name}.png")
    open_picture = Image.open

    def fail(path, *rest):
        if Path(path).name == "a.png":
            raise error
        return open_picture(path, *rest)

    monkeypatch.setattr(Image, "open", fail)
    found = list_images([tmp_path])
    first, second = segment_images(found, Locator(), tmp_path / "out", SETTINGS)
    assert "a.png" in first.error and second.error == ""


def test_broken_exif_costs_no_picture(tmp_path, monkeypatch):
    file = tmp_path / "a.jpg"
    Image.new("RGB", (6, 4)).save(file)
    for error in (struct.error("no"), TypeError("no")):

        def fail(self, error=error):
            raise error

        monkeypatch.setattr(Image.Image, "getexif", fail)
        assert read_image(file).shape == (4, 6, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "c.png")
    first, last = segment_images(list_images([tmp_path]), Locator(), tmp_path / "out", SETTINGS)
    assert first.error == f"{tmp_path / 'a.png'} is no regular file." and last.error == ""


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_text_are_read_and_told(tmp_path):
    folder = os.fsencode(tmp_path) + b"/"
    try:
        Path(os.fsdecode(folder + b"\xff\xfe.png")).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this disk takes no such names")
    Image.new("RGB", (64, 48)).save(os.fsdecode(folder + b"sky\xff.png"))
    outcomes = list(segment_images(list_images([tmp_path]), Locator(), tmp_path / "out", SETTINGS))
    errors = sorted(outcome.error for outcome in outcomes)
    assert errors[0] == "" and r"\xff\xfe.png is no picture" in errors[1]
    assert r"sky\xff.png" in quote(next(one.picture.path for one in outcomes if not one.error))
    for report in (tmp_path / "out").rglob("report.json"):
        report.read_text("utf-8")


def test_memory_that_a_picture_has_no_room_in_is_an_outcome(tmp_path):
    Image.new("RGB", (2000, 1500)).save(tmp_path / "large.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "small.png")

    def locate(images):
        if images[0].shape[0] > 1000:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return Locator()(images)

    large, small = segment_images(list_images([tmp_path]), locate, tmp_path / "out", SETTINGS)
    assert "large.png: 2000 x 1500 pixels are more than the memory" in large.error
    assert small.error == ""


def test_a_batch_too_large_for_the_memory_is_done_one_by_one(tmp_path):
    for n in range(3):
        Image.new("RGB", (64, 48), (n, n, n)).save(tmp_path / f"{n}.png")

    def locate(images):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Locator()(images)

    outcomes = list(segment_images(list_images([tmp_path]), locate, tmp_path / "out", SETTINGS, 3))
    assert [outcome.error for outcome in outcomes] == ["", "", ""]


def test_errors_of_memory_are_told_from_others():
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("x"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_maps_that_are_not_finite_are_an_outcome(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")

    def locate(images):
        maps = soft_maps(1, seed=1, grid=Grid(3, 4, 16, 48, 64, size=(48, 64)))
        maps.maps[0, 0, 0, 0] = float("nan")
        return maps

    (outcome,) = segment_images(list_images([tmp_path]), locate, tmp_path / "out", SETTINGS)
    assert "a.png: The maps hold values that are not finite" in outcome.error
    assert not (tmp_path / "out" / "a").exists()


# --- colours --------------------------------------------------------------------------------------


def profile_that_swaps_red_and_green() -> bytes:
    """An RGB profile in which what is called red is green."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {
        bytes(raw[at : at + 4]): at
        for at in range(132, 132 + 12 * int.from_bytes(raw[128:132], "big"), 12)
    }
    red, green = tags[b"rXYZ"] + 4, tags[b"gXYZ"] + 4
    raw[red : red + 8], raw[green : green + 8] = raw[green : green + 8], raw[red : red + 8]
    at = int.from_bytes(raw[tags[b"desc"] + 4 : tags[b"desc"] + 8], "big")
    size = int.from_bytes(raw[tags[b"desc"] + 8 : tags[b"desc"] + 12], "big")
    raw[at : at + size] = bytes(raw[at : at + size]).replace(b"s\0R\0G\0B", b"S\0w\0a\0p")
    return bytes(raw)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_seen_through_their_profile(tmp_path, mode):
    image = Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "tagged.png", icc_profile=profile_that_swaps_red_and_green())
    assert read_image(tmp_path / "plain.png")[0, 0].tolist() == [255, 0, 0]
    red, green, _ = read_image(tmp_path / "tagged.png")[0, 0].tolist()
    assert red < 30 and green > 220


def test_srgb_and_broken_profiles_change_no_bit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for n, profile in enumerate((srgb, b"", b"no profile", srgb[:200])):
        Image.fromarray(noise).save(tmp_path / f"{n}.png", icc_profile=profile)
        assert np.array_equal(read_image(tmp_path / f"{n}.png"), noise)


@pytest.mark.parametrize(("white", "bits"), [(2**32 - 1, 32), (2**16 - 1, 16), (255, 8)])
def test_grey_of_32_bits_is_as_bright_as_it_is_meant(tmp_path, white, bits):
    values = (np.linspace(0, 1, 256)[None].repeat(4, 0) * white).astype(np.uint32)
    file = tmp_path / "a.tif"
    tags = b"".join(
        struct.pack("<HHII", *tag)
        for tag in (
            *((256, 4, 1, 256), (257, 4, 1, 4), (258, 3, 1, 32), (259, 3, 1, 1), (262, 3, 1, 1)),
            *((273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 4), (279, 4, 1, 4096), (339, 3, 1, 1)),
        )
    )
    header = b"II*\0" + struct.pack("<I", 8 + 4096)
    file.write_bytes(
        header + values.tobytes() + struct.pack("<H", 10) + tags + struct.pack("<I", 0)
    )
    seen = read_image(file)[0, :, 0].astype(int)
    assert abs(seen - np.arange(256)).max() <= 1


def test_the_reason_for_floating_point_is_said_once(tmp_path):
    Image.new("F", (6, 4), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(ConceptAttentionError) as told:
        read_image(tmp_path / "a.tif")
    assert str(told.value).count("a.tif") == 1


def test_heic_is_listed_with_the_package_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    images._find_endings.cache_clear()
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (picture,) = list_images([tmp_path])
    with pytest.raises(UnreadableKindError, match=r"a\.HEIC was skipped: .* pillow-heif"):
        read_image(picture.path)
    (outcome,) = segment_images([picture], Locator(), tmp_path / "out", SETTINGS)
    assert outcome.skipped and "pillow-heif" in outcome.error


def test_heic_is_read_where_its_package_is_installed(tmp_path, monkeypatch):
    class Package:
        @staticmethod
        def register_heif_opener():
            Image.register_extension("PNG", ".heic")  # stands in for the package's own kind

    monkeypatch.setitem(sys.modules, "pillow_heif", Package)
    images._find_endings.cache_clear()
    data = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(data, "PNG")
    (tmp_path / "a.heic").write_bytes(data.getvalue())
    try:
        assert read_image(ImageFile(tmp_path / "a.heic", "a").path)[0, 0].tolist() == [
            255,
            0,
            0,
        ]
    finally:
        Image.EXTENSION.pop(".heic", None)
        images._find_endings.cache_clear()
