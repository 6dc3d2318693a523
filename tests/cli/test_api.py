"""The Python door: what `conceptattention_core` offers by name gives what its parts give."""

import dataclasses
import json
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import conceptattention.conceptattention_core as ca
from conceptattention.conceptattention_core import specs
from conceptattention.conceptattention_core.cli import build_parser, calls, list_options, main
from conceptattention.conceptattention_core.hosts.diffusers.patch import record as record_pipeline
from conceptattention.conceptattention_core.pixels import read_images, read_pixels, to_bytes

from ..hosts.diffusers.tiny import tiny_flux
from ..hosts.diffusers.tiny.cogvideox import tiny_cogvideox

WORDS = "balloon, sky, sea"
CALL = {"height": 48, "width": 80, "num_inference_steps": 2, "guidance_scale": 0.0}
LENGTH = {"max_sequence_length": 77}


@pytest.fixture(scope="module")
def pipe():
    return tiny_flux()


def generate(pipe, seed: int = 0, **changed):
    noise = torch.Generator().manual_seed(seed)
    return pipe("a red balloon", generator=noise, **{**CALL, **LENGTH, **changed}).images


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


# --- record ---------------------------------------------------------------------------------------


def test_recording_leaves_the_image_and_the_pipeline_as_they_were(pipe):
    (plain,) = generate(pipe)
    before = [set(vars(one)) for one in (pipe, pipe.image_processor)]
    with ca.record(pipe, WORDS, **LENGTH):
        (image,) = generate(pipe)
    assert np.array_equal(image, plain)
    assert [set(vars(one)) for one in (pipe, pipe.image_processor)] == before


def test_maps_are_those_of_the_parts(pipe):
    spec = ca.RecordSpec(ca.parse(WORDS, True), "first", ca.Method(space="value"), "last 2")
    with ca.record(
        pipe, WORDS, background=True, tokens="first", method=spec.method, blocks="last 2", **LENGTH
    ) as run:
        generate(pipe)
    with record_pipeline(pipe, spec, **LENGTH) as listener:
        generate(pipe)
    assert run.recording().spec == spec
    reading = ca.ReadSpec(steps="1", order="mean, then softmax", temperature=0.5)
    expected = ca.read_maps(listener.recording(), reading)
    found = run.maps(steps="1", order="mean, then softmax", temperature=0.5)
    assert torch.equal(found.maps, expected.maps) and found.spec == expected.spec


@pytest.mark.parametrize(
    "concepts", [WORDS, ca.parse(WORDS), ca.RecordSpec(ca.parse(WORDS))], ids=type
)
def test_concepts_are_text_a_set_or_a_spec(pipe, concepts):
    with ca.record(pipe, concepts, blocks="0", **LENGTH) as run:
        generate(pipe)
    assert run.recording().spec == ca.RecordSpec(ca.parse(WORDS), blocks="0")


def test_what_is_not_known_is_refused_in_one_sentence(pipe):
    with (
        pytest.raises(ca.ConceptAttentionError, match="Unknown: block. Accepted: tokens, method"),
        ca.record(pipe, WORDS, block="0"),
    ):
        pass
    with (
        pytest.raises(ca.ConceptAttentionError, match="a ConceptSet or a RecordSpec; got list"),
        ca.record(pipe, ["balloon"]),
    ):
        pass
    with ca.record(pipe, WORDS, **LENGTH) as run:
        generate(pipe)
    with pytest.raises(ca.ConceptAttentionError, match="Unknown: heat. Accepted: steps, blocks"):
        run.maps(heat=2)


def test_notices_about_concepts_are_warnings(pipe):
    with pytest.warns(UserWarning, match="given more than once"), ca.record(pipe, "sky, Sky, sea"):
        pass


def test_a_recorded_run_is_one_line_and_equals_itself_alone(pipe):
    with ca.record(pipe, WORDS, **LENGTH) as run, ca.record(pipe, WORDS, **LENGTH) as other:
        generate(pipe)
    assert repr(run) == "RecordedRun(FluxPipeline, concepts='balloon, sky, sea')"
    assert run == run and run != other and len({run, other}) == 2
    maps = run.maps()
    assert maps == maps and maps != run.maps()
    assert "\n" not in repr(maps) and len(repr(maps)) < 400


# --- what is saved --------------------------------------------------------------------------------


def test_a_saved_run_has_the_files_of_the_command(pipe, tmp_path):
    with ca.record(pipe, WORDS, **LENGTH) as run:
        (image,) = generate(pipe)
    results = run.save(tmp_path / "out")
    kinds = {f"{kind}/{name}.png" for kind in ("masks", "heatmaps") for name in WORDS.split(", ")}
    loose = {f"{name}.png" for name in ("image", "overlay", "sheet", "labels")}
    assert files(tmp_path / "out") == kinds | loose | {"labels.json", "report.json"}
    assert np.array_equal(Image.open(tmp_path / "out" / "image.png"), image)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == results.report
    assert repr(results) == f"Results(folder={tmp_path / 'out'!r})"
    assert "balloon" in results.text

    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "sky.png"))
    assert np.array_equal(mask, (run.maps().masks(image)["sky"] * 255).round())


def test_saving_again_leaves_no_file_of_the_first_time(pipe, tmp_path):
    with ca.record(pipe, WORDS, **LENGTH) as run:
        generate(pipe)
    run.save(tmp_path)
    with ca.record(pipe, "moon, cloud", **LENGTH) as run:
        generate(pipe)
    run.save(tmp_path)
    assert {"masks/moon.png", "masks/cloud.png"} == {f for f in files(tmp_path) if "masks/" in f}


def test_each_image_of_a_batch_has_a_folder(pipe, tmp_path):
    with ca.record(pipe, WORDS, **LENGTH) as run:
        images = generate(pipe, num_images_per_prompt=2)
    report = run.save(tmp_path).report
    assert [one["folder"] for one in report["pictures"]] == ["0", "1"]
    for name, image in zip(("0", "1"), images):
        assert np.array_equal(Image.open(tmp_path / name / "image.png"), image)


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_images_of_every_output_type_are_saved(pipe, tmp_path, kind):
    with ca.record(pipe, WORDS, **LENGTH) as run:
        (image,) = generate(pipe)
        generate(pipe, output_type=kind)
    run.save(tmp_path)
    assert np.array_equal(Image.open(tmp_path / "image.png"), image)


def test_without_images_they_are_asked_for(pipe, tmp_path):
    with ca.record(pipe, WORDS, **LENGTH) as run:
        (image,) = generate(pipe)
        generate(pipe, output_type="latent")
    with pytest.raises(ca.ConceptAttentionError, match=r"run\.save\(folder, images\)"):
        run.save(tmp_path)
    assert run.save(tmp_path, image).report["pictures"]
    with pytest.raises(ca.ConceptAttentionError, match="made 1 images, got 2"):
        run.save(tmp_path, [image, image])


def test_a_video_is_saved_frame_by_frame(tmp_path):
    pipe = tiny_cogvideox(version="1.5")  # its latent has padding in front: its length tells
    with ca.record(pipe, WORDS) as run:
        (frames,) = pipe("a balloon", height=48, width=80, num_inference_steps=2).frames
    assert len(run.maps().maps) == len(frames)
    (video,) = run.save(tmp_path).report["videos"]
    assert video["frames"] == len(frames)
    masks = sorted((tmp_path / "masks" / "sky").iterdir())
    assert [file.name for file in masks] == [f"{n:04}.png" for n in range(len(frames))]


# --- images that exist ----------------------------------------------------------------------------


def test_an_image_is_found_in_whatever_form_it_comes(pipe):
    (image,) = generate(pipe)
    pixels = np.asarray(image)
    forms = [image, pixels, torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255, [image, image]]
    found = [ca.locate(pipe, one, WORDS, noise=(0.4,), samples=2, blocks="1-2") for one in forms]
    for maps in found[:3]:
        assert torch.equal(maps.maps, found[0].maps)
    assert len(found[3].maps) == 2
    assert found[0].recording.blocks == ((1, 1), (2, 2))
    with pytest.raises(ca.ConceptAttentionError, match="Unknown: order. Accepted: tokens"):
        ca.locate(pipe, image, WORDS, order="mean, then softmax")


def test_images_of_two_sizes_are_not_located_together(pipe):
    images = [np.zeros((32, 48, 3), np.uint8), np.zeros((48, 32, 3), np.uint8)]
    for wrong in (images, []):
        with pytest.raises(ca.ConceptAttentionError, match=f"one size .* got {len(wrong)}"):
            ca.locate(pipe, wrong, WORDS)


def test_several_images_are_read_in_any_form():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 3), dtype=np.uint8)
    floats = torch.from_numpy(pixels) / 255
    listed = [Image.fromarray(one) for one in pixels]
    for form in (pixels, list(pixels), listed, floats, floats.movedim(3, 1)):
        assert np.array_equal([to_bytes(one) for one in read_images(form)], pixels)
    with pytest.raises(ca.ConceptAttentionError, match="An image is .* got str"):
        read_images("photo.png")
    (one,) = read_images(listed[0])
    assert torch.equal(one, read_pixels(pixels[0]))


# --- the commands ---------------------------------------------------------------------------------

FUNCTIONS = {
    "generate": (calls.GenerateOptions, {"model", "prompt", "concepts", "out"}),
    "segment": (calls.SegmentOptions, {"model", "concepts", "out"}),
    "evaluate": (calls.EvaluateOptions, {"model", "out"}),
}


@pytest.mark.parametrize("command", FUNCTIONS)
def test_editors_know_every_option_of_a_command(command):
    accepted, arguments = FUNCTIONS[command]
    names = {option.dest for option in list_options(build_parser()[1][command])}
    assert set(typing.get_type_hints(accepted)) == names - arguments


@pytest.mark.parametrize(
    ("fields", "spec", "without"),
    [
        (specs.RecordFields, ca.RecordSpec, {"concepts"}),
        (specs.LocateFields, ca.LocateSpec, set()),
        (specs.ReadFields, ca.ReadSpec, set()),
    ],
)
def test_editors_know_every_field_of_a_spec(fields, spec, without):
    types = {field.name: field.type for field in dataclasses.fields(spec)}
    assert set(typing.get_type_hints(fields)) == types.keys() - without


def test_generate_writes_what_the_shell_writes(model, tmp_path, capsys):
    found = ca.generate(
        model,
        "a red balloon",
        WORDS,
        tmp_path / "function",
        height=48,
        width=80,
        steps=2,
        seed=5,
        hard=True,
        html=False,
        device="cpu",
    )
    assert capsys.readouterr().out == ""
    words = ["--model", str(model), "--prompt", "a red balloon", "--concepts", WORDS, "--hard"]
    words += ["--height", "48", "--width", "80", "--steps", "2", "--seed", "5", "--device", "cpu"]
    assert main(["generate", *words, "--out", str(tmp_path / "shell")]) == 0
    shown = capsys.readouterr().out.replace(str(tmp_path / "shell"), str(tmp_path / "function"))
    assert found.text.splitlines() == shown.splitlines()
    assert files(tmp_path / "function") == files(tmp_path / "shell")
    for name in files(tmp_path / "shell") - {"report.json"}:  # which tells seconds
        assert (tmp_path / "function" / name).read_bytes() == (
            tmp_path / "shell" / name
        ).read_bytes()
    assert found.report["pictures"][0]["seed"] == 5


def test_segment_reports_what_failed(model, tmp_path):
    Image.new("RGB", (48, 32), "teal").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    found = ca.segment(
        [tmp_path / "good.png", tmp_path / "bad.png"],
        WORDS,
        model,
        tmp_path / "out",
        noise=(0.3, 0.6),
        device="cpu",
    )
    assert (found.report["made"], len(found.report["failed"])) == (1, 1)
    assert "masks/sky.png" in files(tmp_path / "out" / "good")
    settings = json.loads((tmp_path / "out" / "segment.json").read_text())
    assert settings["how"]["noise"] == [0.3, 0.6]


def test_evaluate_gives_its_figures(model, tmp_path):
    found = ca.evaluate("scenes", model, tmp_path, limit=1, figures=0, size=64, device="cpu")
    assert found.report["pictures"] == 1
    assert found.report["figures"]["output space"].keys() >= {"accuracy", "mIoU"}
    assert "| output space |" in found.text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stepz": 3}, "generate has no option stepz. Accepted: attend, "),
        ({"steps": 0}, "--steps: '0' is no whole number from 1 to 10000"),
        ({"order": "any"}, "--order: invalid choice: 'any'"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(tmp_path, options, told):
    with pytest.raises(ca.ConceptAttentionError, match=told):
        ca.generate("nowhere", "a lake", WORDS, tmp_path / "out", **options)


def test_the_demo_model_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ca.ConceptAttentionError, match="run this in a clone of the repository"):
        ca.generate("demo/model", "a lake", WORDS, "out")
    assert files(tmp_path) == set()
