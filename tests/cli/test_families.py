"""The commands with other families than Flux.1: each is called as its pipeline wants it."""

import functools
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from conceptattention.conceptattention_core.cli import main
from conceptattention.conceptattention_core.hosts.diffusers.families import family_of
from conceptattention.conceptattention_core.hosts.diffusers.families.base import VideoFamily
from diffusers import CogVideoXImageToVideoPipeline, DiffusionPipeline

from ..hosts.diffusers.tiny import TINY
from ..hosts.diffusers.tiny.cogvideox import tiny_cogvideox

VIDEOS = [name for name, tiny in TINY.items() if "num_frames" in tiny.call]
# Flux.1 has its own file; the template of Qwen-Image is too long for a toy's words
PICTURES = [name for name in TINY if name not in (*VIDEOS, "Flux.1", "Qwen-Image")]
NAMES = ("red_balloon", "sky")
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
def test_generate_generates_and_finds(saved, tmp_path):
    assert paint(saved, tmp_path, "--guidance", "2") == 0
    assert np.asarray(Image.open(tmp_path / "image.png")).shape == (48, 80, 3)
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert told["family"] in PICTURES
    assert told["guidance"] == 2.0


def test_videos_are_what_families_of_videos_make():
    assert [
        name for name in TINY if isinstance(family_of(TINY[name].make()), VideoFamily)
    ] == VIDEOS
    assert len(VIDEOS) == 2


@pytest.mark.parametrize("saved", [*PICTURES, *VIDEOS], indirect=True)
def test_segment_finds_in_pictures(saved, tmp_path):
    Image.linear_gradient("L").convert("RGB").resize((70, 50)).save(tmp_path / "one.png")
    out = tmp_path / "out"
    what = ["segment", str(tmp_path / "one.png"), "--model", str(saved), "--out", str(out)]
    assert main([*what, *CONCEPTS]) == 0
    assert json.loads((out / "summary.json").read_text("utf-8"))["made"] == 1


@pytest.mark.parametrize("saved", ["SD3", *VIDEOS], indirect=True)
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


# --- videos ---------------------------------------------------------------------------------------

FRAMES = ["--frames", "9"]


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("saved", VIDEOS, indirect=True)
def test_a_video_is_the_one_that_the_pipeline_makes(saved, tmp_path):
    assert paint(saved, tmp_path, *FRAMES, "--seed", "7") == 0
    pipe = DiffusionPipeline.from_pretrained(saved)
    (video,) = pipe(
        "a red balloon",
        height=48,
        width=80,
        num_frames=9,
        num_inference_steps=2,
        max_sequence_length=family_of(pipe).text_length(pipe),
        generator=torch.Generator().manual_seed(7),
    ).frames
    assert len(video) == 9
    for n, frame in enumerate(video):
        assert np.array_equal(pixels(tmp_path / f"image/{n:04}.png"), np.asarray(frame))
    assert files(tmp_path / "image") == {f"{n:04}.png" for n in range(9)}


@pytest.mark.parametrize("saved", VIDEOS, indirect=True)
def test_every_frame_has_a_mask_of_every_concept(saved, tmp_path):
    assert paint(saved, tmp_path, *FRAMES, "--hard", "--fps", "12", "--html") == 0
    for name in NAMES:
        for n in range(9):
            mask = pixels(tmp_path / "masks" / name / f"{n:04}.png")
            assert mask.shape == (48, 80) and set(np.unique(mask)) <= {0, 255}
    assert len(list((tmp_path / "explorer").iterdir())) == 9
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    (video,) = told["videos"]
    assert (video["frames"], video["fps"]) == (9, 12)
    assert (told["height"], told["width"]) == (48, 80)
    assert [concept["name"] for concept in video["concepts"]] == ["red balloon", "sky"]
    by_frame = np.array([concept["coverage of frames"] for concept in video["concepts"]])
    assert by_frame.shape == (2, 9)
    assert by_frame.sum(0) == pytest.approx(1, abs=1e-3)
    assert sum(concept["coverage"] for concept in video["concepts"]) == pytest.approx(1, abs=1e-3)
    assert np.ptp(by_frame[0]) > 0.01, "every frame has maps of its own"


@pytest.mark.parametrize("saved", VIDEOS, indirect=True)
def test_each_video_of_a_batch_is_the_one_of_its_seed(saved, tmp_path):
    assert paint(saved, tmp_path / "two", *FRAMES, "--batch", "2", "--seed", "3") == 0
    told = json.loads((tmp_path / "two" / "report.json").read_text("utf-8"))
    assert [video["folder"] for video in told["videos"]] == ["3", "4"]
    assert paint(saved, tmp_path / "one", *FRAMES, "--seed", "4") == 0
    alone, both = files(tmp_path / "one"), files(tmp_path / "two" / "4")
    assert alone - both == {"report.json"}
    for name in both:
        assert (tmp_path / "two/4" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize("saved", VIDEOS, indirect=True)
def test_without_options_a_video_is_as_its_pipeline_has_it(saved, tmp_path, monkeypatch):
    asked = []

    class Seen(Exception):  # noqa: N818 - no error
        pass

    def see(pipe, **call):
        asked.append(call)
        raise Seen

    kind = type(DiffusionPipeline.from_pretrained(saved))
    monkeypatch.setattr(kind, "__call__", functools.wraps(kind.__call__)(see))
    what = ["generate", "--model", str(saved), "--out", str(tmp_path), "--prompt", "a balloon"]
    with pytest.raises(Seen):
        main([*what, *CONCEPTS])
    said = inspect.signature(kind.__call__).parameters
    for name in ("height", "width", "num_frames", "num_inference_steps", "guidance_scale"):
        assert asked[0][name] == said[name].default


@pytest.mark.parametrize("saved", VIDEOS, indirect=True)
def test_what_an_earlier_video_left_does_not_stay(saved, tmp_path):
    assert paint(saved, tmp_path, "--frames", "17", "--batch", "2", "--html") == 0
    (tmp_path / "1/masks/sky/mine.png").touch()
    assert paint(saved, tmp_path, *FRAMES, "--overwrite") == 0
    assert paint(saved, tmp_path / "fresh", *FRAMES) == 0
    assert not (tmp_path / "0").exists()
    mine = {"1/masks/sky/mine.png"}
    fresh = files(tmp_path / "fresh")
    assert {name for name in files(tmp_path) if not name.startswith("fresh/")} == fresh | mine


def test_padding_in_front_of_a_video_has_no_frames(tmp_path):
    """CogVideoX 1.5: three cells of time are sampled as four, and the first one is dropped."""
    tiny_cogvideox(version="1.5").save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    assert paint(tmp_path / "model", out, *FRAMES) == 0
    told = json.loads((out / "report.json").read_text("utf-8"))
    assert (told["videos"][0]["frames"], told["videos"][0]["fps"]) == (9, 16)
    assert files(out / "masks/sky") == {f"{n:04}.png" for n in range(9)}


@pytest.mark.parametrize("saved", ["SD3"], indirect=True)
@pytest.mark.parametrize("option", [FRAMES, ["--fps", "8"]])
def test_pictures_have_no_frames(saved, tmp_path, capsys, option):
    assert paint(saved, tmp_path, *option) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "StableDiffusion3Pipeline makes pictures; --frames and --fps" in line


@pytest.mark.parametrize("saved", VIDEOS, indirect=True)
def test_a_number_of_frames_that_no_video_has_is_refused(saved, tmp_path, capsys):
    few = family_of(DiffusionPipeline.from_pretrained(saved)).stride
    assert paint(saved, tmp_path / "no", "--frames", str(few)) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert f"1, {few + 1}, {2 * few + 1} and so on; asked for {few}" in line
    assert paint(saved, tmp_path / "yes", "--frames", str(few + 1)) == 0


def test_a_model_that_starts_from_a_picture_is_refused(tmp_path, capsys):
    parts = tiny_cogvideox().components
    CogVideoXImageToVideoPipeline(**parts).save_pretrained(tmp_path / "model")
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    assert paint(tmp_path / "model", tmp_path / "a") == 1
    what = ["segment", str(tmp_path / "one.png"), "--model", str(tmp_path / "model")]
    assert main([*what, "--out", str(tmp_path / "b"), *CONCEPTS]) == 1
    for line in capsys.readouterr().err.splitlines():
        assert "a CogVideoXImageToVideoPipeline, which is not called without image" in line
