"""`evaluate` on data that is broken and results that were torn: one sentence, or done again."""

import json
import multiprocessing
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.cli import main
from conceptattention.conceptattention_core.evaluation.datasets import (
    open_imagenet_segmentation,
    open_voc,
)
from conceptattention.conceptattention_core.evaluation.metrics import Score
from conceptattention.conceptattention_core.evaluation.run import read_lines, write_line
from conceptattention.conceptattention_core.evaluation.tables import figures

from .common import (
    run,
    save_labels,
)


def score() -> Score:
    made = Score()
    made.add(np.array([[0, 1]]), np.array([[0, 0]]), np.array([[0.2, 0.7]]))
    return made


def bomb(width: int = 40_000, height: int = 40_000) -> bytes:
    """A PNG of a few bytes that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


LABELS = "SegmentationClass/2007_1.png"
SPOILT = [
    (LABELS, lambda file: file.write_text("no picture")),
    (LABELS, lambda file: file.write_bytes(b"")),
    (LABELS, lambda file: file.write_bytes(bomb())),
    (LABELS, lambda file: os.truncate(file, 60)),
    (LABELS, lambda file: save_labels(np.full((90, 120), 77, np.uint8), file)),
    (LABELS, lambda file: Image.new("RGB", (120, 90)).save(file)),
    ("JPEGImages/2007_1.jpg", lambda file: file.write_text("no picture")),
    ("JPEGImages/2007_1.jpg", lambda file: file.unlink()),
    ("ImageSets/Segmentation/val.txt", lambda file: file.write_bytes(b"2007_1\n\xff\xfe\n")),
]


@pytest.mark.parametrize(("name", "spoil"), SPOILT)
def test_a_damaged_devkit_is_one_sentence_with_the_files_name(
    voc, model, tmp_path, capsys, name, spoil
):
    file = voc / "VOCdevkit" / "VOC2012" / name
    spoil(file)
    assert run("voc-multi", model, tmp_path / "out", "--data", voc) == 1
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("python -m")]
    assert file.name in line


def test_labels_altered_at_any_byte_are_read_or_named(voc):
    file = voc / "VOCdevkit" / "VOC2012" / LABELS
    whole, data = file.read_bytes(), open_voc(voc)
    for at in range(0, len(whole), max(1, len(whole) // 120)):
        for spoilt in (whole[:at], whole[:at] + b"\xff" + whole[at + 1 :]):
            file.write_bytes(spoilt)
            try:
                data.read("2007_1")
            except ConceptAttentionError as error:
                assert file.name in str(error)


def test_names_that_are_no_text_are_a_sentence(imagenet):
    (imagenet / "names.txt").write_bytes(b"n01440764 t\xe4nch\n")
    with pytest.raises(ConceptAttentionError, match=r"names\.txt is no text in UTF-8"):
        open_imagenet_segmentation(imagenet, imagenet / "names.txt")
    (imagenet / "names.txt").write_text("n01440764 \nn02123045 tabby\n")
    data = open_imagenet_segmentation(imagenet, imagenet / "names.txt")
    with pytest.raises(ConceptAttentionError, match="has no name for n01440764"):
        data.read("0")


# --- results that were torn -----------------------------------------------------------------------


def test_results_torn_at_any_byte_are_done_again_and_go_on(tmp_path):
    file = tmp_path / "results.jsonl"
    for key in "abc":
        write_line(file, key, {"x": score()})
    whole = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    for at in range(len(whole)):
        file.write_bytes(whole[:at])
        done = read_lines([file])
        assert len(done) == sum(end <= at for end in ends), at
        assert file.read_bytes() == whole[:at], "reading changes nothing"
        for key in "abc":
            if key not in done:
                write_line(file, key, {"x": score()})
        assert file.read_bytes() == whole, at


def test_lines_that_an_earlier_version_glued_together_are_read(tmp_path):
    file = tmp_path / "results.jsonl"
    for key in "abc":
        write_line(file, key, {"x": score()})
    file.write_bytes(file.read_bytes().replace(b"\n", b"", 1))
    assert sorted(read_lines([file])) == ["a", "b", "c"]


def add_lines(file: Path, who: int) -> None:
    for n in range(40):
        write_line(file, f"{who}-{n}", {"x": score()})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="makes processes as Unix does")
def test_two_processes_add_to_one_file(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_bytes(b'{"key": "torn')
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=add_lines, args=(file, who)) for who in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert len(read_lines([file])) == 80
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_scores_that_are_not_finite_are_refused(tmp_path):
    bad = score()
    bad.precisions.append(float("nan"))
    with pytest.raises(ConceptAttentionError, match="The scores of a are not finite"):
        write_line(tmp_path / "results.jsonl", "a", {"x": bad})
    assert not (tmp_path / "results.jsonl").exists()


def test_nothing_judged_has_no_figure():
    assert set(figures("voc-single", Score()).values()) == {None}
    json.dumps(figures("imagenet-segmentation", Score()), allow_nan=False)


def test_torn_settings_are_refused_unless_replaced(model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("scenes", model, out, "--limit", "1") == 0
    (out / "evaluate.json").write_text("{")
    assert run("scenes", model, out, "--limit", "1") == 1
    assert "evaluate.json is torn" in capsys.readouterr().err
    assert run("scenes", model, out, "--limit", "1", "--overwrite") == 0


def test_the_largest_seed_is_taken(model, tmp_path):
    last = str(2**64 - 1)
    assert run("scenes", model, tmp_path / "out", "--limit", "1", "--seed", last) == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("--seed", "99999999999999999999"), ("--figures", "-1"), ("--shard", f"1/{'9' * 5000}")],
)
def test_values_out_of_range_are_refused(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "scenes", "--model", "x", "--out", str(tmp_path / "o"), option, value])
    assert stopped.value.code == 2 and f"argument {option}" in capsys.readouterr().err
