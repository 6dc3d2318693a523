"""`segment`: folders of pictures to folders of masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .folders import segment

pytest.importorskip("diffusers")


def files(out: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in out.rglob("*")
        if file.is_file() and file.name != "summary.json"
    }


def test_every_picture_gets_its_folder_at_its_own_size(pictures, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert segment(pictures, model, out) == 0
    assert "3 made, 0 were done, 0 failed" in capsys.readouterr().out
    for n, size in enumerate([(90, 70), (90, 70), (40, 130)]):
        folder = out / f"photo_{n}"
        report = json.loads((folder / "report.json").read_text())
        assert (report["width"], report["height"]) == size
        assert [concept["name"] for concept in report["concepts"]] == ["red balloon", "sky", "lake"]
        for concept in report["concepts"]:
            assert Image.open(folder / concept["mask"]).size == size
        labels = Image.open(folder / "labels.png")
        assert labels.size == size and labels.mode == "P"
        named = json.loads((folder / "labels.json").read_text())
        assert {str(value) for value in np.unique(labels)} <= named.keys()


def test_batches_and_a_second_start_change_nothing(pictures, model, tmp_path, capsys):
    segment(pictures, model, tmp_path / "one", "--hard")
    segment(pictures, model, tmp_path / "two", "--hard", "--batch", "2")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith("masks/sky.png"):
            first, second = (
                np.asarray(Image.open(tmp_path / x / name), int) for x in ("one", "two")
            )
            assert (first != second).mean() < 0.01  # sums in another order
    segment(pictures, model, tmp_path / "one", "--hard")
    assert "3 of 3 are done already" in capsys.readouterr().out
    assert files(tmp_path / "one") == one


def test_a_broken_picture_is_named_and_the_status_says_so(pictures, model, tmp_path, capsys):
    (pictures / "broken.jpg").write_text("no picture")
    assert segment(pictures, model, tmp_path / "out") == 1
    assert "broken.jpg is no picture" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["made"] == 3 and len(summary["failed"]) == 1
    assert not (tmp_path / "out" / "broken").exists()


def test_other_settings_need_another_folder(pictures, model, tmp_path, capsys):
    segment(pictures, model, tmp_path / "out")
    assert segment(pictures, model, tmp_path / "out", "--noise", "0.3") == 1
    assert "other settings (how)" in capsys.readouterr().err
    assert segment(pictures, model, tmp_path / "out", "--noise", "0.3", "--overwrite") == 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("--noise", "1.5"), "Noise levels lie between"),
        (("--noise", "much"), "Noise levels are numbers"),
        (("--concepts", ", ".join(f"c{n}" for n in range(65))), "at most 64 are accepted"),
        (("--model", "nowhere"), "There is no folder nowhere"),
        (("--blocks", "7"), "Asked for blocks '7'"),
    ],
)
def test_what_cannot_be_is_one_line(pictures, model, tmp_path, capsys, changed, told):
    assert segment(pictures, model, tmp_path / "out", *changed) == 1
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_no_picture_is_an_error(model, tmp_path, capsys):
    assert segment(tmp_path / "gone", model, tmp_path / "out") == 1
    assert "There is no picture or folder" in capsys.readouterr().err


def test_with_html_every_picture_gets_its_page(pictures, model, tmp_path):
    assert segment(pictures, model, tmp_path / "out", "--html") == 0
    pages = sorted((tmp_path / "out").glob("*/explorer.html"))
    assert len(pages) == 3
    assert "red balloon" in pages[0].read_text("utf-8")


def test_mask_options_reach_the_masks(pictures, model, tmp_path):
    plain, finished = tmp_path / "plain", tmp_path / "finished"
    segment(pictures, model, plain, "--hard")
    segment(pictures, model, finished, "--hard", "--grow", "6", "--threshold", "competition")
    report = json.loads((finished / "photo_0" / "report.json").read_text())
    assert report["masks"]["grow"] == 6 and report["masks"]["threshold"] == "competition"
    first, second = (
        np.asarray(Image.open(run / "photo_0" / "masks" / "sky.png")) for run in (plain, finished)
    )
    assert (first != second).any()
