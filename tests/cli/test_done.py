"""What counts as done: the same content, the same settings, all files there."""

import json
import os

import numpy as np
import pytest
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.cli.segmenting import (
    list_open,
    open_folder,
    segment_images,
)
from conceptattention.conceptattention_core.images import list_images
from PIL import Image

from .common import SETTINGS, Locator, contents, run


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(2):
        paint(folder / f"{i}.png", 40 * i)
    return folder


def paint(file, grey):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((48, 64, 3), grey, np.uint8)).save(file)
    return file


def open_names(paths, out):
    return [picture.name for picture in list_open(list_images(paths), out, SETTINGS)]


def test_a_changed_picture_is_done_again_and_a_renamed_folder_is_not(pictures, tmp_path):
    out = tmp_path / "out"
    run(pictures, out)
    moved = pictures.rename(tmp_path / "elsewhere")
    assert open_names([moved], out) == []
    told = (moved / "0.png").stat()
    paint(moved / "0.png", 77)
    os.utime(moved / "0.png", ns=(told.st_atime_ns, told.st_mtime_ns))
    assert open_names([moved], out) == ["0"]


def test_another_picture_of_the_same_name_is_not_done(pictures, tmp_path):
    run(pictures, tmp_path / "out")
    other = paint(tmp_path / "other" / "0.png", 200)
    assert open_names([other], tmp_path / "out") == ["0"]


def test_a_picture_of_which_a_file_is_gone_or_cut_is_done_again(pictures, tmp_path):
    out = tmp_path / "out"
    run(pictures, out)
    before = contents(out)
    files = [path for path in (out / "0").rglob("*") if path.is_file()]
    assert len(files) > 8
    for file in files:
        for spoil in (file.unlink, lambda file=file: os.truncate(file, 5)):
            spoil()
            assert open_names([pictures], out) == ["0"], file
            run(pictures, out)
            assert contents(out) == before


def test_a_report_torn_at_any_byte_is_done_again(pictures, tmp_path):
    out = tmp_path / "out"
    run(pictures, out)
    report = out / "0" / "report.json"
    whole = report.read_bytes()
    for at in range(len(whole) - 1):  # the last byte is a line's end
        report.write_bytes(whole[:at])
        assert open_names([pictures], out) == ["0"], at
    for spoilt in (b"[]", b"null", b"3", b'"x"', b"\x00" * 40, b"[" * 100_000):
        report.write_bytes(spoilt)
        assert open_names([pictures], out) == ["0"], spoilt[:9]
    run(pictures, out)
    assert report.read_bytes() == whole


@pytest.mark.parametrize("overwrite", [False, True])
def test_settings_torn_at_any_byte_are_written_again(pictures, tmp_path, overwrite):
    out = tmp_path / "out"
    run(pictures, out)
    file = out / "segment.json"
    whole = file.read_bytes()
    for at in range(len(whole) - 1):
        file.write_bytes(whole[:at])
        open_folder(out, SETTINGS, overwrite)
        assert file.read_bytes() == whole
    assert open_names([pictures], out) == []


def test_torn_settings_of_another_run_are_not_taken_for_ours(pictures, tmp_path):
    out = tmp_path / "out"
    run(pictures, out)
    (out / "segment.json").write_text("")
    with pytest.raises(ConceptAttentionError, match="is of other settings"):
        open_folder(out, {**SETTINGS, "model": "another"}, overwrite=False)
    open_folder(out, {**SETTINGS, "model": "another"}, overwrite=True)


def test_results_of_an_earlier_version_count_while_they_are_whole(pictures, tmp_path):
    out = tmp_path / "out"
    run(pictures, out)
    for report in out.glob("*/report.json"):
        told = json.loads(report.read_text())
        del told["content"], told["files"]  # as before there were any
        report.write_text(json.dumps(told))
    assert open_names([pictures], out) == []
    (out / "0" / "sheet.png").unlink()
    later = (out / "1" / "report.json").stat().st_mtime + 5
    os.utime(pictures / "1.png", (later, later))
    assert open_names([pictures], out) == ["0", "1"]


def test_results_inside_the_pictures_folder_never_become_pictures(pictures, tmp_path):
    def see(out):
        pictures_found = list_images([pictures], without=out)
        return [picture.name for picture in pictures_found]

    out = pictures / "results"
    for _ in range(3):
        assert see(out) == ["0", "1"]
        open_folder(out, SETTINGS, overwrite=False)
        run(pictures / "0.png", out)
    another = pictures / "more"
    run(pictures / "1.png", another)
    assert see(out) == see(another) == see(None) == ["0", "1"]


def test_results_beside_their_pictures_never_become_pictures(pictures, tmp_path):
    open_folder(pictures, SETTINGS, overwrite=True)
    for _ in range(2):
        todo = list_open(list_images([pictures], without=pictures), pictures, SETTINGS)
        assert not any(one.error for one in segment_images(todo, Locator(), pictures, SETTINGS))
    assert todo == []
    assert [one.name for one in list_images([pictures], without=pictures)] == ["0", "1"]


@pytest.mark.parametrize("kind", ["pictures", "videos"])
def test_of_what_was_generated_only_the_pictures_are_pictures(tmp_path, kind):
    for file in ("image.png", "overlay.png", "masks/sky.png", "3/image.png", "3/sheet.png"):
        paint(tmp_path / file, 9)
    for file in ("3/labels/0000.png", "3/heatmaps/sky.png", "own/labels.png"):
        paint(tmp_path / file, 9)
    told = {kind: [{"folder": "."}, {"folder": "3"}]}
    (tmp_path / "report.json").write_text(json.dumps(told))
    found = {picture.name for picture in list_images([tmp_path])}
    assert found == {"image", "3/image", "own/labels"}
    (tmp_path / "report.json").write_text('{"pictures": [3, {}], "videos": 1}')
    assert len(list_images([tmp_path])) == 8, "a report of somebody else"
