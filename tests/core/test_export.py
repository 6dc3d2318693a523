"""Files that every system accepts, and what stands in them."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from conceptattention.conceptattention_core import render
from conceptattention.conceptattention_core.export import file_names, save, save_labels
from conceptattention.conceptattention_core.masks import MaskSpec, draw
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from .examples import soft_maps

SPEC = MaskSpec(threshold="otsu", soft=True)
PICTURE = np.random.default_rng(0).integers(0, 256, (104, 56, 3), dtype=np.uint8)
PORTS = {f"{port}{i}" for port in ("com", "lpt") for i in range(10)}
WINDOWS_KEEPS = {"con", "prn", "aux", "nul"} | PORTS


def safe(name: str) -> bool:
    return (
        re.fullmatch(r"[\w-]+", name) is not None
        and name.casefold() not in WINDOWS_KEEPS
        and len(f"{name}.png".encode()) <= 255
    )


@given(st.lists(st.text(max_size=90), max_size=9))
def test_file_names_are_safe_and_distinct_whatever_the_concepts(names):
    files = file_names(names)
    assert len(files) == len(names)
    assert all(map(safe, files))
    assert len({file.casefold() for file in files}) == len(files)


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["red hot sky", "hot-air balloon"], ["red_hot_sky", "hot-air_balloon"]),
        (["a/b", r"a\b", "a:b", "a?b*"], ["a_b", "a_b_2", "a_b_3", "a_b_4"]),
        (["../../etc/passwd", "."], ["etc_passwd", "concept_1"]),
        (["CON", "nul", "com1", "COM¹", "lpt9", "console"], None),
        (["Sun", "sun", "sun_2"], ["Sun", "sun_2", "sun_2_2"]),
        (["日本", "небо", "café"], ["日本", "небо", "café"]),
        (["🎈", "!!!", "red 🎈"], ["balloon", "concept_1", "red_balloon"]),
        (["🎈", "balloon", "🌞"], ["balloon", "balloon_2", "sun_with_face"]),
        (["\U00020000" * 90, "\U00020000" * 91], None),
    ],
)
def test_file_names_stay_readable(names, files):
    found = file_names(names)
    assert all(map(safe, found))
    assert len({file.casefold() for file in found}) == len(names)
    if files:
        assert found == files


@pytest.fixture
def maps():
    return soft_maps(names="sun, con, red hot sky, 日本", b=2)


@pytest.fixture
def report(tmp_path, maps):
    return save(tmp_path, PICTURE, maps, 1, SPEC)


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_every_mask_is_written_under_the_name_the_report_gives(tmp_path, maps, report):
    picture = render.to_image(PICTURE)[None].expand(2, -1, -1, -1)
    masks = draw(maps, spec=SPEC, image=picture)[:, 1]
    assert [concept["name"] for concept in report["concepts"]] == list(maps.concepts.names)
    for concept, mask in zip(report["concepts"], masks, strict=True):
        written = read(tmp_path / concept["mask"])
        assert written.shape == (104, 56)
        assert np.abs(written / 255 - mask.numpy()).max() <= 0.5 / 255 + 1e-6
    assert len(list((tmp_path / "masks").iterdir())) == 4
    assert len(list((tmp_path / "heatmaps").iterdir())) == 4


def test_overlay_and_sheet_are_written(tmp_path, report):
    assert read(tmp_path / "overlay.png").shape[1] == 56
    assert (tmp_path / "sheet.png").exists()


def test_the_report_tells_what_is_where(maps, report):
    winners = maps.maps[1].argmax(0)
    for c, concept in enumerate(report["concepts"]):
        assert concept["coverage"] == pytest.approx((winners == c).float().mean().item(), abs=1e-4)
        assert concept["peak"] == pytest.approx(maps.maps[1, c].max().item(), abs=1e-4)
        assert concept["mean"] == pytest.approx(maps.maps[1, c].mean().item(), abs=1e-4)
        assert concept["present"] == (concept["coverage"] >= 0.005)
    assert report["masks"] == asdict(SPEC)
    json.dumps(report)


def test_labels_and_their_names_and_colours_agree(tmp_path):
    maps = soft_maps(names="日本")
    save_labels(tmp_path, render.label_map(maps, 0, PICTURE), maps.concepts)
    image = Image.open(tmp_path / "labels.png")
    names = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), render.label_map(maps, 0, PICTURE))
    assert [entry["name"] for entry in names.values()] == ["日本", "background"]
    assert [entry["hidden"] for entry in names.values()] == [False, True]
    colours = np.asarray(image.convert("RGB"))
    for value, entry in names.items():
        assert (colours[np.asarray(image) == int(value)] == entry["colour"]).all()


def test_a_hidden_background_gets_no_files(tmp_path):
    report = save(tmp_path, PICTURE, soft_maps(names="sun"), 0, SPEC)
    assert [concept["name"] for concept in report["concepts"]] == ["sun"]
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["sun.png"]


def test_saving_twice_into_one_folder_replaces_the_files(tmp_path, maps):
    save(tmp_path, PICTURE, maps, 0, SPEC)
    first = read(tmp_path / "labels.png")
    save(tmp_path, PICTURE, maps, 1, SPEC)
    assert not np.array_equal(read(tmp_path / "labels.png"), first)
