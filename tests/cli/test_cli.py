"""`python -m conceptattention_core`: files that fit together, and one line for what cannot be."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core.cli import main
from conceptattention.conceptattention_core.hosts.diffusers.families import family_of
from diffusers import FluxPipeline
from PIL import Image

from ..core.explorer_common import blob, picture
from .common import options

pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[2]

NAMES = ("red_balloon", "sky", "lake")


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text("utf-8"))


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_every_file_is_there_and_has_the_size_of_the_picture(model, tmp_path, capsys):
    assert main(options(model, tmp_path, negative_prompt="a cat", true_cfg=3)) == 0
    for kind in ("masks", "heatmaps"):
        assert sorted(f.name for f in (tmp_path / kind).iterdir()) == sorted(
            f"{name}.png" for name in NAMES
        )
        for name in NAMES:
            assert pixels(tmp_path / kind / f"{name}.png").shape[:2] == (48, 80)
    assert pixels(tmp_path / "image.png").shape == (48, 80, 3)
    assert pixels(tmp_path / "labels.png").max() < len(NAMES)
    assert pixels(tmp_path / "overlay.png").shape[1] == 80

    told = report(tmp_path)
    (picture,) = told["pictures"]
    assert [concept["name"] for concept in picture["concepts"]] == ["red balloon", "sky", "lake"]
    assert sum(concept["coverage"] for concept in picture["concepts"]) == pytest.approx(1, abs=1e-3)
    assert told["steps"] == 2 and told["true_cfg_scale"] == 3.0
    assert told["versions"]["torch"] == torch.__version__
    out, err = capsys.readouterr()
    assert "red balloon" in out
    assert err == ""


def test_the_picture_is_the_one_that_the_pipeline_makes(model, tmp_path):
    assert main(options(model, tmp_path, seed=7)) == 0
    pipe = FluxPipeline.from_pretrained(model)  # where weights lie decides on the last bit
    image = pipe(
        "a red balloon over the sea",
        height=48,
        width=80,
        num_inference_steps=2,
        guidance_scale=0.0,
        max_sequence_length=family_of(pipe).text_length(pipe),
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert np.array_equal(pixels(tmp_path / "image.png"), np.asarray(image))


def test_a_batch_gets_a_folder_for_each_seed(model, tmp_path):
    assert main(options(model, tmp_path / "two", batch=2, seed=3)) == 0
    assert [picture["folder"] for picture in report(tmp_path / "two")["pictures"]] == ["3", "4"]
    assert main(options(model, tmp_path / "one", seed=4)) == 0
    both, alone = tmp_path / "two" / "4" / "image.png", tmp_path / "one" / "image.png"
    assert abs(pixels(both).astype(int) - pixels(alone)).max() <= 1


def test_settings_reach_the_maps(model, tmp_path):
    changed = {"blocks": "last 2", "step_range": "1", "order": "mean, then softmax"}
    changed |= {"temperature": 2, "tokens": "first", "attend": "image", "space": "value"}
    changed |= {"bounces": 1, "scale": "standardised"}
    asked = [*options(model, tmp_path, threshold="top area", level=0.25, **changed), "--hard"]
    assert main([*asked, "--background"]) == 0
    (picture,) = report(tmp_path)["pictures"]
    assert picture["maps"] == {
        "model": "Flux.1",
        "tokens": "first",
        "attend to": "image",
        "space": "value",
        "bounces": 1,
        "steps": "1",
        "blocks": "last 2",
        "order": "mean, then softmax",
        "temperature": 2.0,
        "scale": "standardised",
    }
    assert set(np.unique(pixels(tmp_path / "masks" / "lake.png"))) <= {0, 255}
    names = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    assert names["3"]["name"] == "background"


def test_with_html_every_picture_gets_its_page(model, tmp_path):
    asked = options(model, tmp_path, batch=2, seed=3, blocks="last 2", step_range="1")
    assert main(asked) == 0
    assert list(tmp_path.rglob("*.html")) == []
    assert main([*asked, "--overwrite", "--html"]) == 0
    assert len(list(tmp_path.rglob("*.html"))) == 2
    for seed, other in (("3", "4"), ("4", "3")):
        page = blob((tmp_path / seed / "explorer.html").read_text("utf-8"))
        assert [concept["name"] for concept in page["concepts"]] == ["red balloon", "sky", "lake"]
        opened = {"steps": {"from": 1, "to": 2}, "blocks": {"from": 1, "to": 3}}
        assert page["start"] == opened, "what the maps were read from"
        own, foreign = (
            np.abs(picture(page).astype(int) - pixels(tmp_path / painted / "image.png")).mean()
            for painted in (seed, other)
        )
        assert own < foreign / 2, "a JPEG of its own picture"


def test_a_model_folder_brings_its_defaults_and_the_user_wins(own, tmp_path):
    defaults = {
        "steps": 3,
        "true_cfg_scale": 2.5,
        "height": 32,
        "negative_prompt": "",
        "hard": True,
    }
    (own / "conceptattention.json").write_text(json.dumps(defaults))
    asked = options(own, tmp_path / "out", width=64)
    steps = asked.index("--steps")
    assert main([*asked[:steps], *asked[steps + 2 :]]) == 0
    told = report(tmp_path / "out")
    assert (told["steps"], told["true_cfg_scale"]) == (3, 2.5)
    assert (told["height"], told["width"]) == (48, 64)
    assert told["pictures"][0]["masks"]["soft"] is False


@pytest.mark.parametrize("text", ['{"stepz": 3}', "[1]", "{"])
def test_defaults_that_cannot_be_read_are_named(own, tmp_path, capsys, text):
    (own / "conceptattention.json").write_text(text)
    assert main(options(own, tmp_path / "out")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "conceptattention.json" in line


def test_files_are_replaced_only_when_asked(model, tmp_path, capsys):
    assert main(options(model, tmp_path)) == 0
    assert main(options(model, tmp_path)) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*options(model, tmp_path), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "no/such/folder"}, "There is no folder no/such/folder"),
        ({"model": ROOT}, "holds no diffusers pipeline"),
        ({"concepts": " , "}, "No concepts were given"),
        ({"blocks": "2-7"}, "there are 3"),
        ({"blocks": "some"}, "Could not read 'some'"),
        ({"step_range": "5"}, "there are 2"),
        ({"device": "abacus"}, "There is no device 'abacus' here"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(model, tmp_path, capsys, changed, said):
    assert main(options(**{"model": model, "out": tmp_path, **changed})) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_folder_that_cannot_be_made_is_named(model, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(options(model, out)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert str(tmp_path / "file") in line


def test_a_broken_model_folder_is_named(own, tmp_path, capsys):
    (own / "transformer").unlink()
    assert main(options(own, tmp_path / "out")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Could not load the model {own}" in line


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": 0},
        {"batch": "few"},
        {"height": 250},
        {"temperature": 0},
        {"level": 1.5},
        {"threshold": "magic"},
        {"order": "softmax"},
        {"dtype": "int3"},
    ],
)
def test_a_value_that_makes_no_sense_is_a_usage_error(model, tmp_path, capsys, changed):
    with pytest.raises(SystemExit) as stopped:
        main(options(model, tmp_path, **changed))
    assert stopped.value.code == 2
    (name,) = changed
    assert f"argument --{name}" in capsys.readouterr().err


def test_masks_of_an_earlier_run_do_not_stay(model, tmp_path):
    main(options(model, tmp_path))
    (tmp_path / "masks" / "mine.png").touch()
    assert main([*options(model, tmp_path, concepts="sky, moon"), "--overwrite"]) == 0
    assert {file.name for file in (tmp_path / "masks").iterdir()} == {
        *("sky.png", "moon.png", "mine.png")
    }
    assert {file.name for file in (tmp_path / "heatmaps").iterdir()} == {"sky.png", "moon.png"}


def test_pages_and_pictures_of_an_earlier_run_do_not_stay(model, tmp_path):
    main([*options(model, tmp_path, batch=2, seed=3), "--html"])
    assert main([*options(model, tmp_path, blocks="7"), "--overwrite"]) == 1
    assert (tmp_path / "3" / "image.png").exists(), "nothing goes before the new run can start"
    assert main([*options(model, tmp_path), "--overwrite"]) == 0
    assert list(tmp_path.rglob("*.html")) == []
    assert not (tmp_path / "3").exists() and (tmp_path / "image.png").exists()


def test_help_needs_no_diffusers():
    asked = (
        "import sys; from conceptattention_core import cli; cli.build_parser(); print(*sys.modules)"
    )
    loaded = subprocess.check_output([sys.executable, "-c", asked], cwd=ROOT, text=True).split()
    assert not {"diffusers", "transformers"} & set(loaded)


def test_the_package_runs():
    command = [sys.executable, "-m", "conceptattention_core"]
    told = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0 and "generate" in told.stdout
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 2
