"""The command line refuses at once what no run could do, and takes any text."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.cli import main, models, options
from conceptattention.conceptattention_core.files import to_json
from conceptattention.conceptattention_core.output import export
from conceptattention.conceptattention_core.texts import clean_text

from .common import options as asked_for
from .folders import segment

HOSTILE = (
    "sky \ud83d",
    "\udcff",
    "a\x00b",
    "\x1b[31mred",
    "\u202ex",
    "\x7f\x9f",
    "\ud83d\ude00",
    "\U0001f600",
)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--contrast", "200", "between 0.01 and 100"),
        ("--contrast", "nan", "no number"),
        ("--temperature", "1e-38", "between 0.001 and 10000"),
        ("--temperature", "inf", "no number"),
        ("--grow", "1000000000", "from -1024 to 1024"),
        ("--grow", "9" * 5000, "from -1024 to 1024"),
        ("--feather", "2000000000", "from 0 to 1024"),
        ("--feather", "-1", "from 0 to 1024"),
        ("--seed", "99999999999999999999", "to 18446744073709551615"),
        ("--seed", "-99999999999999999999", "from -9223372036854775808"),
        ("--batch", "9" * 5000, "whole number"),
        ("--level", "nan", "no number"),
        ("--islands", "inf", "no number"),
    ],
)
@pytest.mark.parametrize("command", ["segment", "generate"])
def test_values_out_of_range_are_refused_with_the_range(
    tmp_path, capsys, command, option, value, told
):
    start = ["segment", "x.png"] if command == "segment" else ["generate", "--prompt", "x"]
    given = [*start, "--model", "none", "--concepts", "sky", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        main([*given, f"{option}={value}"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"argument {option}" in error and told in error and len(error) < 4000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--guidance", "nan"), ("--true-cfg", "1e999"), ("--fps", "inf"), ("--steps", "9" * 30)],
)
def test_values_of_painting_are_refused(tmp_path, capsys, option, value):
    given = ["generate", "--prompt", "x", "--model", "none", "--concepts", "sky", "--out", "out"]
    with pytest.raises(SystemExit):
        main([*given, option, value])
    assert f"argument {option}" in capsys.readouterr().err


def test_seeds_that_count_up_beyond_64_bits_are_refused(pictures, model, tmp_path, capsys):
    last = str(2**64 - 1)
    assert segment(pictures, model, tmp_path / "out", "--seed", last, "--samples", "2") == 1
    assert "Seeds are at most 18446744073709551615" in capsys.readouterr().err
    assert segment(pictures, model, tmp_path / "out", "--seed", last) == 0


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_taken(pictures, model, tmp_path, capsys, text):
    out = tmp_path / "out"
    assert segment(pictures, model, out, "--concepts", f"lake, {text} b", "--caption", text) == 0
    for report in out.rglob("*.json"):
        told = report.read_text("utf-8")
        told.encode("utf-8")
        assert not any(one in told for one in "\x00\x1b\x7f")
    capsys.readouterr().out.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_in_any_argument_ends_in_one_line_or_a_usage_error(tmp_path, capsys, text):
    (tmp_path / "x.png").write_text("no picture")
    parser = options_of("segment") | options_of("generate") | options_of("evaluate")
    for name in sorted(parser):
        for start in (["segment", str(tmp_path / "x.png")], ["generate"], ["evaluate", "scenes"]):
            given = [*start, "--model", "nowhere", "--out", str(tmp_path / "out")]
            if start[0] != "evaluate":
                given += ["--concepts", "sky"]
            if start[0] == "generate":
                given += ["--prompt", "x"]
            if name not in options_of(start[0]) or name == "--out":
                continue
            try:
                code = main([*given, f"{name}={text}"])
            except SystemExit as stopped:
                code = stopped.code
            assert code in (1, 2), (name, start)
            said = capsys.readouterr()
            (said.out + said.err).encode("utf-8", "strict")


def options_of(command: str) -> set[str]:
    from conceptattention.conceptattention_core.cli import build_parser

    actions = build_parser()[1][command]._actions
    return {
        action.option_strings[0]
        for action in actions
        if action.nargs != 0 and action.option_strings
    }


def test_text_is_cleaned_of_what_cannot_be_encoded_or_seen():
    assert clean_text("a\x00b\ud83dc\x1bd\ne\tf") == "abcd\ne f"
    assert clean_text("\U0001f600 ä 漢") == "\U0001f600 ä 漢"
    assert clean_text("\ud83d\ude00") == "\U0001f600", "the two halves of one character"


def test_numbers_that_are_not_finite_never_reach_a_file():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ConceptAttentionError, match="not finite"):
            to_json({"x": [value]})


# --- a model's own folder -------------------------------------------------------------------------


def test_a_model_says_nothing_about_files_and_machines(own, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert segment(pictures, own, out) == 0
    before = {file: file.read_bytes() for file in out.rglob("*.png")}
    bad = {"overwrite": True, "ray": "127.0.0.1:8339", "html": True, "batch": 3, "noise": "0.3"}
    (own / "conceptattention.json").write_text(json.dumps(bad))
    assert segment(pictures, own, out) == 1
    error = capsys.readouterr().err
    assert "batch, html, overwrite, ray left out" in error and "of other settings (how)" in error
    assert {file: file.read_bytes() for file in out.rglob("*.png")} == before


def test_nothing_that_a_model_may_say_names_files_or_machines():
    every = {
        name[2:].replace("-", "_")
        for one in ("segment", "generate", "evaluate")
        for name in options_of(one)
    }
    risky = {
        "out",
        "data",
        "names",
        "ray",
        "device",
        "model",
        "overwrite",
        "html",
        "concepts",
        "shard",
    }
    assert not options.OF_A_MODEL & (
        risky | {"paths", "prompt", "caption", "limit", "figures", "full_size"}
    )
    assert len(every & options.OF_A_MODEL) > 20, "the names are those of options"


@pytest.mark.parametrize("told", [{"steps": True}, {"steps": [1]}, {"hard": 3}, {"steps": None}])
def test_a_models_defaults_of_a_wrong_kind_are_named(own, tmp_path, capsys, told):
    (own / "conceptattention.json").write_text(json.dumps(told))
    assert main(asked_for(own, tmp_path / "out")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "conceptattention.json" in line and f"'{next(iter(told))}'" in line


def copy(own: Path, name: str) -> Path:
    """Makes a part of the model folder one that may be written to."""
    import shutil

    real = (own / name).resolve()
    (own / name).unlink()
    if real.is_dir():
        shutil.copytree(real, own / name)
    else:
        shutil.copy(real, own / name)
    return own / name


def change(file: Path, **changed) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


@pytest.mark.parametrize(
    ("part", "spoil"),
    [
        ("model_index.json", lambda file: file.write_text("[1]")),
        ("model_index.json", lambda file: file.write_text('{"_cl')),
        ("model_index.json", lambda file: change(file, _class_name=7)),
        ("model_index.json", lambda file: change(file, _class_name=None)),
        ("model_index.json", lambda file: change(file, transformer=5)),
        ("model_index.json", lambda file: change(file, transformer=["os", "system"])),
        ("transformer", lambda part: change(part / "config.json", num_layers="many")),
        ("transformer", lambda part: change(part / "config.json", num_layers=7)),
        ("transformer", lambda part: cut(next(part.glob("*.safetensors")))),
        ("text_encoder_2", lambda part: cut(next(part.glob("*.safetensors")))),
        ("text_encoder_2", lambda part: (part / "config.json").write_text("[]")),
        ("tokenizer_2", lambda part: [file.write_text("") for file in part.iterdir()]),
    ],
)
def test_a_model_that_is_damaged_is_one_sentence(own, tmp_path, capsys, part, spoil):
    spoil(copy(own, part))
    assert main(asked_for(own, tmp_path / "out")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Could not load the model {own}" in line and len(line) < 700
    assert list((tmp_path / "out").iterdir()) == []


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1000)


def test_weights_of_fewer_layers_than_configured_are_named(own, tmp_path, capsys):
    change(copy(own, "transformer") / "config.json", num_layers=7)
    assert main(asked_for(own, tmp_path / "out")) == 1
    assert "its weights do not fit its configuration" in capsys.readouterr().err


def test_listening_to_the_libraries_leaves_their_loggers_as_they_were():
    import logging

    before = [
        (logging.getLogger(name).level, list(logging.getLogger(name).handlers))
        for name in ("diffusers", "transformers")
    ]
    with models._collect_warnings() as told:
        logging.getLogger("diffusers.models").warning("newly initialized")
    assert told == ["newly initialized"]
    after = [
        (logging.getLogger(name).level, list(logging.getLogger(name).handlers))
        for name in ("diffusers", "transformers")
    ]
    assert after == before


# --- a disk that is full --------------------------------------------------------------------------


def test_a_full_disk_is_named_and_leaves_the_earlier_run(
    model,
    tmp_path,
    capsys,
    monkeypatch,
):
    out = tmp_path / "out"
    assert main(asked_for(model, out)) == 0
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    save, count = Image.Image.save, 0

    def fill(self, file, *rest, **more):
        nonlocal count
        count += 1
        if count == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, file, *rest, **more)

    monkeypatch.setattr(Image.Image, "save", fill)
    assert main([*asked_for(model, out, concepts="moon, sea"), "--overwrite"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert ".png" in line and "No space left on device" in line and "MB are free there" in line
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as Unix does")
def test_segment_and_generate_on_a_disk_without_room_leave_no_half_file(pictures, model, tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: what is written ends at so many bytes."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)); "
        "from conceptattention_core.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    start = ["segment", str(pictures), "--concepts", "sky, sea", "--device", "cpu"]
    for n, given in enumerate((start, asked_for(model, tmp_path / "1")[:-2])):
        out = tmp_path / str(n)
        given = [*given, "--model", str(model), "--out", str(out)]
        done = subprocess.run(
            [sys.executable, "-c", code, *given],
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "File too large" in done.stderr and "MB are free there" in done.stderr
        left = {file.name for file in out.rglob("*") if file.is_file()}
        assert left <= {"segment.json"}


# --- what is drawn --------------------------------------------------------------------------------


def test_sheets_and_overlays_are_bounded_and_full_size_is_an_option(model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
    Image.fromarray(noise).resize((2600, 1800)).save(folder / "a.png")
    sizes = {}
    for name, more in (("bounded", ()), ("full", ("--full-size",))):
        assert segment(folder, model, tmp_path / name, *more) == 0
        made = tmp_path / name / "a"
        for file in ("masks/sky.png", "heatmaps/sky.png", "labels.png"):
            assert Image.open(made / file).size == (2600, 1800)
        sizes[name] = [Image.open(made / file).size for file in ("overlay.png", "sheet.png")]
    assert sizes["bounded"][0][0] == 2048 and max(sizes["bounded"][1]) <= export.LARGEST_SIDE
    assert max(sizes["bounded"][1]) > 1900
    assert sizes["full"][0][0] == 2600 and sizes["full"][1][0] > 4 * 2600
    assert segment(folder, model, tmp_path / "bounded", "--full-size") == 1, "other settings"
