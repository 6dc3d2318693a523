"""`evaluate`: the published formats, the protocols, runs that go on, tables that tell the truth."""

import json

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.evaluation.datasets import (
    Sample,
    open_imagenet_segmentation,
    open_voc,
)
from conceptattention.conceptattention_core.evaluation.metrics import Score
from conceptattention.conceptattention_core.evaluation.protocols import PROTOCOLS, smooth
from conceptattention.conceptattention_core.evaluation.run import (
    VARIANTS,
    read_lines,
    total,
    write_line,
)
from conceptattention.conceptattention_core.evaluation.tables import PAPER, write_markdown
from PIL import Image

from .common import CAT, IGNORE, PERSON, run, save_labels

pytest.importorskip("diffusers")


def test_voc_is_read_as_published(voc):
    for path in (voc, voc / "VOCdevkit", voc / "VOCdevkit" / "VOC2012"):
        data = open_voc(path)
        assert data.keys == ("2007_1", "2007_2", "2007_3")
    both = data.read("2007_2")
    assert both.classes == {CAT: "cat", PERSON: "person"}
    assert both.image.shape == (90, 120, 3) and both.labels.shape == (90, 120)
    assert set(np.unique(both.labels)) == {0, CAT, PERSON, IGNORE}


def test_imagenet_segmentation_is_read_as_published(imagenet):
    data = open_imagenet_segmentation(imagenet, imagenet / "names.txt")
    assert len(data) == 2
    sample = data.read("1")
    assert sample.classes == {1: "tabby"}
    expected = np.random.default_rng(1).integers(0, 255, (61, 80, 3), np.uint8)
    assert np.array_equal(sample.image, expected)
    assert sample.labels[10:30, 20:60].all() and sample.labels.sum() == 20 * 40


def test_every_protocol_runs(voc, imagenet, model, tmp_path, capsys):
    names = ("--names", imagenet / "names.txt")
    assert run("voc-multi", model, tmp_path / "a", "--data", voc) == 0
    assert run("voc-single", model, tmp_path / "b", "--data", voc) == 0
    mat = imagenet / "gtsegs_ijcv.mat"
    assert run("imagenet-segmentation", model, tmp_path / "c", "--data", mat, *names) == 0
    assert run("scenes", model, tmp_path / "d", "--limit", "2") == 0
    pictures = [json.loads((tmp_path / x / "report.json").read_text())["pictures"] for x in "abcd"]
    assert pictures == [3, 2, 2, 2]
    table = (tmp_path / "c" / "table.md").read_text()
    assert "| ConceptAttention | SD3.5 Turbo | 81.92 |" in table
    assert "| cross-attention | not run | not run | not run | not run | 74.92 |" in table
    assert "mIoU (paper)" not in (tmp_path / "a" / "table.md").read_text()


def test_all_variants_and_curves_are_rows_files_and_a_picture(model, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    assert run("scenes", model, out, "--limit", "2", "--all-variants", "--curves") == 0
    report = json.loads((out / "report.json").read_text())["figures"]
    assert {variant.name for variant in VARIANTS} <= report.keys()
    assert {"block 0", "noise 0.1", "noise 0.9"} <= report.keys()
    assert "not run" not in (out / "table.md").read_text()
    assert Image.open(out / "curves.png").size[0] > 500
    assert (out / "table.csv").read_text().startswith("variant,accuracy,mIoU\n")


def test_a_stopped_run_goes_on_and_shards_add_up(model, tmp_path):
    whole, torn, parts = tmp_path / "whole", tmp_path / "torn", tmp_path / "parts"
    run("scenes", model, whole, "--limit", "3")
    run("scenes", model, torn, "--limit", "3")
    lines = (torn / "results.jsonl").read_text().splitlines(keepends=True)
    (torn / "results.jsonl").write_text(lines[0] + lines[1][:40])
    run("scenes", model, torn, "--limit", "3")
    for shard in ("1/2", "2/2"):
        run("scenes", model, parts, "--limit", "3", "--shard", shard)
    expected = (whole / "table.md").read_text()
    assert (torn / "table.md").read_text() == expected
    assert (parts / "table.md").read_text() == expected


def test_a_run_is_the_same_again_and_others_are_not_mixed_in(model, tmp_path, capsys):
    run("scenes", model, tmp_path / "one", "--limit", "2")
    run("scenes", model, tmp_path / "two", "--limit", "2")
    first, second = ((tmp_path / x / "results.jsonl").read_text() for x in ("one", "two"))
    assert first == second
    assert run("scenes", model, tmp_path / "one", "--limit", "2", "--noise", "0.3") == 1
    assert "of other settings (changes)" in capsys.readouterr().err


def test_the_papers_rules():
    assert PROTOCOLS["imagenet-segmentation"].caption(("cat",)) == "a cat"
    assert PROTOCOLS["voc-multi"].caption(("cat", "dog")) == "a cat,a dog"
    flat = smooth(np_to_tensor(np.ones((2, 4, 5))))
    assert np.allclose(flat.numpy(), 1)
    point = np.zeros((1, 5, 5))
    point[0, 2, 2] = 1
    blurred = smooth(np_to_tensor(point))[0].numpy()
    assert blurred.sum() == pytest.approx(1) and blurred[2, 2] == pytest.approx(0.2042, abs=1e-4)


def np_to_tensor(array):
    import torch

    return torch.from_numpy(array).float()


def test_a_perfect_answer_is_perfect(voc):
    import torch

    sample = open_voc(voc).read("2007_2")
    protocol = PROTOCOLS["voc-multi"]
    true = protocol.truth(sample)
    names = protocol.concepts(sample).names
    assert names[:2] == ("cat", "person") and "background" in names
    heat = torch.zeros(len(names), 64, 64)
    heat[names.index("background")] = 0.5
    for place, label in enumerate(sample.classes):
        heat[place] = torch.from_numpy((true == label).astype(np.float32))
    score = protocol.score(sample, heat)
    assert score.accuracy == 1 and score.miou == 1


def test_rows_that_were_not_run_say_so_and_paper_rows_are_the_papers():
    score = Score(right=1, judged=2)
    score.both[0], score.either[0] = 1, 3
    table = write_markdown(
        "imagenet-segmentation", {"output space": score}, [*PAPER["imagenet-segmentation"]], 1
    )
    assert "| output space | 50.00 | 33.33 | 33.33 |  | 83.07 | 71.04 | 90.45 |" in table
    assert table.count("not run |") == 4 * 5


def test_lines_survive_and_damage_is_named(tmp_path):
    file = tmp_path / "results.jsonl"
    score = Score()
    score.add(np.array([[0, 1]]), np.array([[0, 0]]), np.array([[0.2, 0.7]]))
    write_line(file, "a", {"x": score})
    write_line(file, "b", {"x": score})
    done = read_lines([file])
    assert total(done)["x"].judged == 4 and done["a"]["x"] == score
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0][:20], lines[1]]) + "\n")
    with pytest.raises(ConceptAttentionError, match=r"results\.jsonl is damaged at line 1"):
        read_lines([file])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "ImageSets/Segmentation/val.txt").unlink(), "is no VOC2012 devkit"),
        (
            lambda root: save_labels(
                np.zeros((5, 5), np.uint8), root / "SegmentationClass/2007_1.png"
            ),
            r"2007_1\.png has 5 x 5 labels for a picture of 90 x 120",
        ),
        (
            lambda root: save_labels(
                np.full((90, 120), 77, np.uint8), root / "SegmentationClass/2007_1.png"
            ),
            r"2007_1\.png has labels \[77\]",
        ),
        (
            lambda root: (root / "JPEGImages/2007_1.jpg").write_bytes(b"no"),
            r"2007_1\.jpg is no picture",
        ),
    ],
)
def test_a_damaged_devkit_is_named(voc, spoil, told):
    spoil(voc / "VOCdevkit" / "VOC2012")
    with pytest.raises(ConceptAttentionError, match=told):
        open_voc(voc).read("2007_1")


def test_a_damaged_mat_is_named(imagenet, tmp_path):
    with pytest.raises(ConceptAttentionError, match=r"There is no .*gone\.mat"):
        open_imagenet_segmentation(tmp_path / "gone.mat", imagenet / "names.txt")
    file = imagenet / "gtsegs_ijcv.mat"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ConceptAttentionError, match="is no whole gtsegs_ijcv.mat"):
        open_imagenet_segmentation(file, imagenet / "names.txt")


def test_data_has_to_be_named(model, tmp_path, capsys):
    assert run("voc-multi", model, tmp_path / "x") == 1
    assert "voc-multi needs --data PATH" in capsys.readouterr().err


def test_with_edges_maps_follow_the_picture_before_they_are_judged():
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 27:] = 1  # not where patches meet
    image = np.where(labels[..., None] == 1, 220, 30).astype(np.uint8).repeat(3, axis=2)
    sample = Sample("one", image, labels + 1, {1: "left", 2: "right"})
    maps = torch.zeros(2, 4, 4)
    maps[0, :, :2], maps[1, :, 2:] = 1, 1
    plain = PROTOCOLS["scenes"].score(sample, maps)
    sharp = PROTOCOLS["scenes"].changed(edges=True).score(sample, maps)
    assert plain.accuracy < 0.95 and sharp.accuracy == 1
