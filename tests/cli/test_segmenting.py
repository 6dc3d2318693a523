"""Runs over many pictures: whole or not at all, never twice, never mixed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.cli import segmenting
from PIL import Image

from .common import SETTINGS, Locator, contents, run

ROOT = Path(__file__).resolve().parents[2]


def test_a_broken_picture_is_named_and_the_rest_go_on(folder, tmp_path):
    outcomes = run(folder, tmp_path / "out")
    errors = {outcome.picture.name: outcome.error for outcome in outcomes}
    assert [errors.pop(name) for name in ("0", "2", "3", "4")] == [""] * 4
    assert "1.png is no picture" in errors.pop("1") and not errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("0", "2", "3", "4"),
        "segment.json",
    ]


def test_pictures_of_one_size_go_together(folder, tmp_path):
    locate = Locator()
    outcomes = run(folder, tmp_path / "out", locate, batch=2)
    assert len(outcomes) == 5
    assert locate.seen == [2, 2]


def test_a_finished_picture_is_not_done_again(folder, tmp_path):
    run(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    locate = Locator()
    outcomes = run(folder, tmp_path / "out", locate)
    assert locate.seen == [] and len(outcomes) == 1  # the broken one is tried again
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("written", range(4))
def test_a_run_that_broke_off_ends_like_an_unbroken_one(folder, tmp_path, written, monkeypatch):
    run(folder, tmp_path / "whole")
    count = 0
    save = segmenting.save_image_files

    def save_until_the_disk_is_full(partial, *rest):
        nonlocal count
        found = save(partial, *rest)
        count += 1
        if count > written:
            raise OSError(28, "No space left on device", str(partial))
        return found

    monkeypatch.setattr(segmenting, "save_image_files", save_until_the_disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        run(folder, tmp_path / "out")
    done = [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert len(done) == written  # nothing half-written under any name
    monkeypatch.undo()
    run(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_settings_are_never_mixed_in(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out)
    other = {**SETTINGS, "model": "another"}
    with pytest.raises(ConceptAttentionError, match=r"of other settings \(model\)"):
        run(folder, out, settings=other)
    locate = Locator()
    run(folder, out, locate, settings=other, overwrite=True)
    assert sum(locate.seen) == 4


def test_a_folder_with_something_else_in_it_is_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConceptAttentionError, match="is not empty"):
        run(folder, tmp_path / "out")
    run(folder, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_model_that_fails_ends_the_run_and_leaves_no_picture_half_done(folder, tmp_path):
    def fail(pictures):
        raise torch.OutOfMemoryError("too large")

    with pytest.raises(torch.OutOfMemoryError):
        run(folder, tmp_path / "out", fail)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["segment.json"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as Unix does")
def test_a_run_killed_at_any_operation_ends_with_the_same_files(tmp_path):
    """A process that dies before its nth operation on files, for every n, and a second one."""
    (tmp_path / "in").mkdir()
    for name, grey in (("first", 60), ("second", 200)):
        pixels = np.full((48, 48, 3), grey, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    command = [sys.executable, "-m", "tests.cli.killed_run", tmp_path / "in", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count = int(done.stdout)
    assert count >= 30
    whole = contents(tmp_path / "out" / "whole")
    assert len(whole) > 10
    for fatal in range(1, count + 1):
        assert contents(tmp_path / "out" / str(fatal)) == whole, f"killed at operation {fatal}"
