"""Several processes on one folder: they share the work, and nothing of it is lost."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conceptattention.conceptattention_core import files
from conceptattention.conceptattention_core.cli import segmenting
from conceptattention.conceptattention_core.cli.segmenting import (
    list_open,
    open_folder,
    segment_images,
)
from conceptattention.conceptattention_core.files import claim, sweep_claims
from conceptattention.conceptattention_core.images import list_images
from PIL import Image

from .common import SETTINGS, Locator, contents, run

ROOT = Path(__file__).resolve().parents[2]
has_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="makes processes as Unix does")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(np.full((48, 64, 3), 30 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


def work(folder, out, told):
    outcomes = run(folder, out)
    told.put([outcome.elsewhere for outcome in outcomes])


@has_fork
def test_two_processes_share_the_work_and_leave_the_files_of_one(pictures, tmp_path):
    run(pictures, tmp_path / "alone")
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    both = [context.Process(target=work, args=(pictures, tmp_path / "out", told)) for _ in range(2)]
    for one in both:
        one.start()
    found = [told.get(timeout=120) for _ in both]
    for one in both:
        one.join(60)
    assert [one.exitcode for one in both] == [0, 0]
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    made = [elsewhere for outcomes in found for elsewhere in outcomes].count(False)
    assert made == 8, "no picture is done twice"


def test_what_another_process_claimed_is_not_done_again(pictures, tmp_path):
    out = tmp_path / "out"
    open_folder(out, SETTINGS, overwrite=False)
    todo = list_open(list_images([pictures]), out, SETTINGS)
    theirs = claim(out, todo[0].name)
    assert theirs and claim(out, todo[0].name) is None
    locate = Locator()
    going = segment_images(todo, locate, out, SETTINGS)
    first = [next(going).picture.name for _ in range(7)]
    assert todo[0].name not in first
    other = Locator()
    monkey = segmenting.write_image_files  # the other process finishes its picture
    image = np.zeros((48, 64, 3), np.uint8)
    monkey(out, todo[0], image, other([image]), 0, SETTINGS)
    theirs.release()
    (last,) = going
    assert last.picture == todo[0] and last.elsewhere and not last.error
    assert len(locate.seen) == 7
    assert not (out / ".claims").exists()


@has_fork
def test_a_claim_ends_with_its_process(tmp_path):
    read, written = os.pipe()
    child = os.fork()
    if child == 0:
        held = claim(tmp_path, "x")
        os.write(written, b"1" if held else b"0")
        time.sleep(60)
        os._exit(0)
    assert os.read(read, 1) == b"1"
    assert claim(tmp_path, "x") is None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    mine = claim(tmp_path, "x")
    assert mine
    mine.release()
    sweep_claims(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_locks_all_goes_on_and_partials_of_others_stay(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_lock", lambda handle: False)
    out = tmp_path / "out"
    run(pictures, out)
    theirs = files.name_partial(out / "3")
    theirs.mkdir()
    (out / "3" / "report.json").unlink()
    assert len(run(pictures, out)) == 1
    assert theirs.is_dir()


def test_what_killed_runs_left_beside_a_picture_goes(pictures, tmp_path):
    run(pictures, tmp_path / "alone")
    out = tmp_path / "out"
    open_folder(out, SETTINGS, overwrite=False)
    for left in (files.name_partial(out / "3"), out / "3.partial"):
        (left / "masks").mkdir(parents=True)
        (left / "masks" / "half.png").write_text("half")
    files.name_partial(out / "segment.json").write_text("{")
    run(pictures, out)
    assert contents(out) == contents(tmp_path / "alone")


@has_fork
def test_two_processes_of_which_one_is_killed_again_and_again(pictures, tmp_path):
    """The one that lives ends with everything whole, whatever the other was at."""
    run(pictures, tmp_path / "alone")
    for n in range(3):
        out = tmp_path / f"out{n}"
        context = multiprocessing.get_context("fork")
        doomed = context.Process(target=work, args=(pictures, out, context.Queue()))
        doomed.start()
        while not (out / "segment.json").exists():
            time.sleep(0.01)
        time.sleep(0.1 * n)
        doomed.kill()
        doomed.join()
        run(pictures, out)
        assert contents(out) == contents(tmp_path / "alone")


def test_results_of_other_pictures_in_a_folder_of_its_name_stay(tmp_path):
    pictures, out = tmp_path / "in", tmp_path / "out"
    for name, grey in (("trip/1.png", 10), ("trip/2.png", 90)):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 64, 3), grey, np.uint8)).save(pictures / name)
    run(pictures, out)
    before = contents(out)
    alone = pictures / "trip.png"
    Image.fromarray(np.full((48, 64, 3), 200, np.uint8)).save(alone)
    assert not any(
        outcome.error for outcome in segment_images(list_images([alone]), Locator(), out, SETTINGS)
    )
    after = contents(out)
    assert before.items() <= after.items() and "trip/report.json" in after
    assert list_open(list_images([alone]), out, SETTINGS) == []
    assert list_open(list_images([pictures / "trip"]), out / "trip", SETTINGS) == []
    # other settings: its own files are replaced, theirs stay
    other = {**SETTINGS, "masks": {"soft": False}}
    (out / "trip" / "masks" / "mine.txt").write_text("mine")
    assert [one.error for one in segment_images(list_images([alone]), Locator(), out, other)] == [
        ""
    ]
    assert before.items() <= contents(out).items()
    assert (out / "trip" / "masks" / "mine.txt").read_text() == "mine"
    assert list_open(list_images([alone]), out, other) == []


def test_two_real_commands_share_a_folder(pictures, tmp_path):
    command = [sys.executable, "-m", "conceptattention_core", "segment", str(pictures)]
    command += ["--concepts", "sky, water", "--model", str(ROOT / "demo" / "model")]
    command += ["--device", "cpu", "--out", str(tmp_path / "out")]
    pytest.importorskip("diffusers")
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for one in both:
        _, error = one.communicate(timeout=300)
        assert one.returncode == 0, error.decode()
    assert len(list((tmp_path / "out").glob("*/report.json"))) == 8
    left = {path.name for path in (tmp_path / "out").iterdir() if not path.is_dir()}
    assert left == {"segment.json", "summary.json"}
