"""Files that every system accepts, and what stands in them."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core.masks import MaskSpec, draw_masks
from conceptattention.conceptattention_core.output.export import (
    draw_palette,
    remove_image_files,
    save_image_files,
    save_names,
    save_video_files,
)
from conceptattention.conceptattention_core.output.render import draw_heat_map
from conceptattention.conceptattention_core.output.rendered import RenderedMaps
from conceptattention.conceptattention_core.pixels import to_floats
from conceptattention.conceptattention_core.texts import name_files
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
    files = name_files(names)
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
    found = name_files(names)
    assert all(map(safe, found))
    assert len({file.casefold() for file in found}) == len(names)
    if files:
        assert found == files


@pytest.fixture
def maps():
    return soft_maps(names="sun, con, red hot sky, 日本", b=2)


@pytest.fixture
def report(tmp_path, maps):
    return save_image_files(tmp_path, PICTURE, maps.of_image(1), SPEC)


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_every_mask_is_written_under_the_name_the_report_gives(tmp_path, maps, report):
    picture = to_floats(PICTURE)[None].expand(2, -1, -1, -1)
    masks = draw_masks(maps, spec=SPEC, image=picture)[:, 1]
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
    save_names(tmp_path, maps.concepts)
    labels = RenderedMaps(maps.of_image(0), PICTURE).labels
    draw_palette(labels, maps.concepts).save(tmp_path / "labels.png")
    image = Image.open(tmp_path / "labels.png")
    names = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), labels)
    assert [entry["name"] for entry in names.values()] == ["日本", "background"]
    assert [entry["hidden"] for entry in names.values()] == [False, True]
    colours = np.asarray(image.convert("RGB"))
    for value, entry in names.items():
        assert (colours[np.asarray(image) == int(value)] == entry["colour"]).all()


def test_a_hidden_background_gets_no_files(tmp_path):
    report = save_image_files(tmp_path, PICTURE, soft_maps(names="sun").of_image(0), SPEC)
    assert [concept["name"] for concept in report["concepts"]] == ["sun"]
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["sun.png"]


def test_saving_twice_into_one_folder_replaces_the_files(tmp_path, maps):
    save_image_files(tmp_path, PICTURE, maps.of_image(0), SPEC)
    first = read(tmp_path / "labels.png")
    save_image_files(tmp_path, PICTURE, maps.of_image(1), SPEC)
    assert not np.array_equal(read(tmp_path / "labels.png"), first)


# --- videos ---------------------------------------------------------------------------------------

FRAMES = [PICTURE, np.roll(PICTURE, 20, axis=1), np.flip(PICTURE, axis=1).copy()]
HARD = MaskSpec()


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_video_has_a_folder_for_each_file_of_a_picture(tmp_path):
    maps = soft_maps(names="sun, red hot sky", b=3)
    told = save_video_files(tmp_path / "video", FRAMES, maps, HARD, fps=8)
    for n, frame in enumerate(FRAMES):
        alone = tmp_path / f"picture {n}"
        save_image_files(alone, frame, maps.of_image(n), HARD)
        for file in sorted(files(alone) - {"labels.json"}):
            name, ending = file.rsplit(".", 1)
            written = read(tmp_path / "video" / name / f"{n:04}.{ending}")
            if name.split("/")[0] not in ("heatmaps", "sheet"):  # on the scale of the video
                assert np.array_equal(written, read(alone / file)), file
        assert np.array_equal(read(tmp_path / "video" / "image" / f"{n:04}.png"), frame)
    kinds = ("image", "overlay", "sheet", "labels")
    named = [f"{kind}/{name}" for kind in ("masks", "heatmaps") for name in ("sun", "red_hot_sky")]
    frames = {f"{name}/{n:04}.png" for name in (*kinds, *named) for n in range(3)}
    assert files(tmp_path / "video") == frames | {"labels.json", "video.mp4", "overlay.mp4"}
    assert (told["frames"], told["fps"]) == (3, 8)
    assert [one["mask"] for one in told["concepts"]] == [
        "masks/sun/%04d.png",
        "masks/red_hot_sky/%04d.png",
    ]
    json.dumps(told)


def test_a_video_is_told_of_as_a_whole(tmp_path):
    maps = soft_maps(names="sun, sky", b=3)
    maps.maps[:2, 0], maps.maps[:2, 1] = 0.25, 0.75  # a sun that rises in the last frame
    sun, sky = save_video_files(tmp_path, FRAMES, maps, HARD, fps=8)["concepts"]
    assert sun["coverage of frames"][:2] == [0, 0] and sun["coverage of frames"][2] > 0.1
    assert sun["present"] and sky["present"]
    for c, told in enumerate((sun, sky)):
        assert told["coverage"] == pytest.approx(np.mean(told["coverage of frames"]), abs=1e-4)
        assert told["mean"] == pytest.approx(maps.maps[:, c].mean().item(), abs=1e-4)
        assert told["peak"] == pytest.approx(maps.maps[:, c].max().item(), abs=1e-4)
    for n in range(3):  # exactly black or white, and all black where the sun is absent
        mask = read(tmp_path / "masks" / "sun" / f"{n:04}.png")
        assert set(np.unique(mask)) == ({0} if n < 2 else {0, 255})


def test_colours_of_heat_maps_do_not_change_from_frame_to_frame(tmp_path):
    maps = soft_maps(names="sun, sky", b=3)
    maps.maps[1] = maps.maps[0] = 0.5
    maps.maps[2, 0], maps.maps[2, 1] = 0.9, 0.1
    save_video_files(tmp_path, FRAMES, maps, HARD, fps=8)
    dim, same, bright = (read(tmp_path / "heatmaps/sun" / f"{n:04}.png") for n in range(3))
    assert np.array_equal(dim, same)
    assert (bright == draw_heat_map(torch.ones(1, 1), 0, 1)[0, 0]).all()
    assert (dim == draw_heat_map(torch.tensor([[0.5]]), 0, 1)[0, 0]).all()


@pytest.mark.parametrize("size", [(104, 56), (33, 57)])
def test_films_show_the_frames(tmp_path, size):
    frames = [np.full((*size, 3), light, np.uint8) for light in (40, 120, 200)]
    save_video_files(tmp_path, frames, soft_maps(b=3), HARD, fps=24)
    for name in ("video", "overlay"):
        film = cv2.VideoCapture(str(tmp_path / f"{name}.mp4"))
        shown = [film.read() for _ in range(4)]
        assert [ok for ok, _ in shown] == [True, True, True, False]
        assert film.get(cv2.CAP_PROP_FPS) == 24
        if name == "video":
            means = [frame[: size[0], : size[1]].mean() for _, frame in shown[:3]]
            assert means == pytest.approx([40, 120, 200], abs=3)


@pytest.mark.parametrize("is_video", [False, True])
def test_what_was_written_is_removed_and_nothing_else(tmp_path, is_video):
    maps = soft_maps(b=3)
    if is_video:
        told = save_video_files(tmp_path, FRAMES, maps, HARD, fps=8)
        (tmp_path / "explorer").mkdir()
        (tmp_path / "explorer/0002.html").touch()
    else:
        told = save_image_files(tmp_path, PICTURE, maps.of_image(0), HARD)
        (tmp_path / "explorer.html").touch()
    mine = {"masks/mine.png", "mine.txt"}
    for name in mine:
        (tmp_path / name).touch()
    remove_image_files(tmp_path, told)
    assert files(tmp_path) == mine
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["masks"]
