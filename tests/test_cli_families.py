"""The commands with other families than Flux.1: each is called as its pipeline wants it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from conceptattention.conceptattention_core.cli import main

from .hosts.diffusers.tiny import TINY

PICTURES = ("SD3", "Flux.2")  # the template of Qwen-Image is too long for a toy's words
VIDEOS = ("CogVideoX", "HunyuanVideo")
SIZE = ["--height", "48", "--width", "80", "--steps", "2"]
CONCEPTS = ["--concepts", "red balloon, sky", "--device", "cpu"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("model")
    TINY[request.param].make().save_pretrained(folder)
    return folder


def paint(model: Path, out: Path, *more: str) -> int:
    what = ["generate", "--model", str(model), "--out", str(out), "--prompt", "a red balloon"]
    return main([*what, *CONCEPTS, *SIZE, *more])


@pytest.mark.parametrize("saved", PICTURES, indirect=True)
def test_generate_paints_and_finds(saved, tmp_path):
    assert paint(saved, tmp_path, "--guidance", "2") == 0
    assert np.asarray(Image.open(tmp_path / "image.png")).shape == (48, 80, 3)
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert told["family"] in PICTURES
    assert told["guidance"] == 2.0


@pytest.mark.parametrize("saved", PICTURES, indirect=True)
def test_segment_finds_in_pictures(saved, tmp_path):
    Image.linear_gradient("L").convert("RGB").resize((70, 50)).save(tmp_path / "one.png")
    out = tmp_path / "out"
    what = ["segment", str(tmp_path / "one.png"), "--model", str(saved), "--out", str(out)]
    assert main([*what, *CONCEPTS]) == 0
    assert json.loads((out / "summary.json").read_text("utf-8"))["made"] == 1


@pytest.mark.parametrize("saved", ["SD3"], indirect=True)
def test_evaluate_draws_scenes(saved, tmp_path):
    what = ["evaluate", "scenes", "--model", str(saved), "--out", str(tmp_path), "--limit", "1"]
    assert main([*what, "--size", "64", "--figures", "0", "--device", "cpu"]) == 0
    assert (tmp_path / "table.md").is_file()


@pytest.mark.parametrize("saved", ["SD3"], indirect=True)
def test_one_kind_of_guidance_is_not_two(saved, tmp_path, capsys):
    assert paint(saved, tmp_path / "a", "--true-cfg", "3") == 1
    assert "it is guided by --guidance" in capsys.readouterr().err
    assert paint(saved, tmp_path / "b", "--negative-prompt", "a cat") == 0


@pytest.mark.parametrize("saved", ["Flux.2"], indirect=True)
def test_a_negative_prompt_that_nobody_reads_is_refused(saved, tmp_path, capsys):
    assert paint(saved, tmp_path / "a", "--negative-prompt", "a cat") == 1
    assert "takes no --negative-prompt" in capsys.readouterr().err


@pytest.mark.parametrize("saved", VIDEOS, indirect=True)
def test_videos_are_refused(saved, tmp_path, capsys):
    assert paint(saved, tmp_path / "a") == 1
    assert "Videos are recorded in Python" in capsys.readouterr().err
