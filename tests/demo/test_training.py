"""Training at miniature size: every stage runs, resumes, extends and exports."""

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from demo.train import limit, list_stages, run_stage
from demo.training.checkpoints import Clock, learning_rate, load_checkpoint
from demo.training.export import restore_checkpoints
from demo.training.latents import load_latents, pack, unpack
from demo.training.recipe import LATENT_STD, FlowSchedule, Recipe, VaeSchedule
from demo.training.train_flow import Batches, FlowModel, number_patches, sample
from demo.training.vocabulary import UNKNOWN, list_words

SMALL = Recipe(
    hidden=32,
    heads=2,
    axes=(4, 6, 6),
    double_blocks=1,
    single_blocks=1,
    t5_width=32,
    clip_width=32,
    vae=VaeSchedule(pictures=3, steps=2, batch=2, decoder_share=0.5, sample_pixels=32),
    flow=(
        FlowSchedule(
            32, pictures=5, minutes=0, batch=2, learning_rate=1e-3, noise_shift=1, steps=2
        ),
        FlowSchedule(
            64,
            pictures=5,
            minutes=0,
            batch=2,
            learning_rate=1e-3,
            noise_shift=1,
            flips=False,
            steps=2,
        ),
    ),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder in which every stage has run once."""
    folder = tmp_path_factory.mktemp("work")
    with torch._dynamo.config.patch(disable=True):  # compiling takes longer than training here
        for stage in list_stages(SMALL):
            train(stage, folder)
    return folder


def train(stage: str, work: Path, recipe: Recipe = SMALL, again: bool = False) -> None:
    with torch._dynamo.config.patch(disable=True):
        run_stage(stage, recipe, work, torch.device("cpu"), work / "model", 1, again)


def test_every_stage_leaves_its_result(work):
    names = {path.name for path in work.iterdir()}
    assert {"vae.pt", "latents-32.safetensors", "flow-32.pt", "flow-64.pt", "model"} <= names
    assert load_checkpoint(work / "flow-64.pt")["done"]
    flipped = load_latents(work / "latents-32.safetensors")
    assert flipped.patches.shape == (2, 5, 4, 64)
    assert flipped.shown.any(1).all()


def test_a_finished_stage_is_left_alone(work):
    before = (work / "flow-32.pt").stat().st_mtime_ns
    train("flow-32", work)
    assert (work / "flow-32.pt").stat().st_mtime_ns == before


def test_an_interrupted_stage_resumes_and_a_finished_one_can_go_on(work):
    path = work / "flow-64.pt"
    state = load_checkpoint(path)
    clock = {**state["clock"], "steps": 5}
    torch.save({**state, "clock": clock, "done": False}, path)  # stopped after two of five steps
    train("flow-64", work)
    assert load_checkpoint(path)["total"] == 5
    train("flow-64", work, limit(SMALL, "flow-64", None, 3), again=True)
    after = load_checkpoint(path)
    assert after["total"] == 8
    assert after["updates"] == 8


def test_the_export_draws_with_diffusers(work):
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(work / "model", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(
        "a red boat",
        height=64,
        width=96,
        num_inference_steps=2,
        guidance_scale=0.0,
        max_sequence_length=32,
        output_type="np",
    ).images
    assert pictures.shape == (1, 64, 96, 3)


def test_the_export_keeps_the_text_encoders(work):
    from diffusers import FluxPipeline

    train("export", work)
    pipeline = FluxPipeline.from_pretrained(work / "model", torch_dtype=torch.float32)
    model = FlowModel(SMALL)
    model.load_state_dict(load_checkpoint(work / "flow-64.pt")["average"], strict=False)
    for mine, theirs in ((model.clip, pipeline.text_encoder), (model.t5, pipeline.text_encoder_2)):
        kept = theirs.state_dict()
        assert all(torch.equal(value, kept[name]) for name, value in mine.state_dict().items())


def test_training_can_be_taken_up_from_an_export(work, tmp_path):
    train("export", work)
    restore_checkpoints(work / "model", SMALL, tmp_path)
    average = load_checkpoint(work / "flow-64.pt")["average"]
    for name, value in load_checkpoint(tmp_path / "flow-64.pt")["average"].items():
        torch.testing.assert_close(value, average[name], rtol=1e-2, atol=1e-6)  # bfloat16
    train("latents-64", tmp_path)
    train("flow-64", tmp_path, limit(SMALL, "flow-64", None, 1), again=True)
    assert load_checkpoint(tmp_path / "flow-64.pt")["total"] == 1


def test_latents_have_zero_mean_and_the_wanted_spread_after_rescaling():
    from demo.training.recipe import build_vae
    from demo.training.train_vae import normalise, rescale_latents, shrink_stream

    torch.manual_seed(0)
    vae, pixels = build_vae(SMALL), torch.rand(4, 3, 32, 32) * 2 - 1
    shrink_stream(vae)
    with torch.no_grad():
        codes = vae.encode(pixels).latent_dist.mean
        before = vae.decoder.conv_in(codes)
        rescale_latents(vae, pixels)
        scaled = vae.encode(pixels).latent_dist.mean
        after = vae.decoder.conv_in(scaled)
    latents = normalise(scaled)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3)) - LATENT_STD).abs().max() < 1e-3
    inside = (..., slice(1, -1), slice(1, -1))  # at the border, zero padding differs
    torch.testing.assert_close(after[inside], before[inside], rtol=1e-3, atol=1e-7)


def test_packing_is_undone_by_unpacking():
    latents = torch.randn(2, 16, 8, 12)
    assert torch.equal(unpack(pack(latents), 4, 6), latents)
    assert number_patches(9)[:, 1:].max() == 2


def test_dropped_captions_come_as_often_as_planned(work):
    torch.manual_seed(0)
    batches = Batches(load_latents(work / "latents-32.safetensors"), torch.device("cpu"))
    _, t5_ids, clip_ids = batches.draw(4000)
    lengths = (t5_ids > 1).sum(1)
    assert 0.07 < (lengths == 0).float().mean() < 0.13
    assert torch.equal(lengths, (clip_ids > 1).sum(1) - 1)  # the same words, after <s>
    unknown = (t5_ids == list_words().index(UNKNOWN)).sum() / lengths.sum()
    assert 0.005 < unknown < 0.02


def test_sampling_depends_on_the_caption(work):
    model = FlowModel(SMALL).eval()
    model.load_state_dict(load_checkpoint(work / "flow-64.pt")["average"], strict=False)
    boat, tree = sample(model, ["a boat"], 64, steps=2), sample(model, ["a tree"], 64, steps=2)
    assert boat.shape == (1, 16, 64)
    assert torch.isfinite(boat).all()
    assert not torch.equal(boat, tree)


def test_the_learning_rate_warms_up_and_ends_low():
    start, end = Clock(0, 100, step=0), Clock(0, 100, step=100)
    assert learning_rate(1.0, start.progress, start.step, warm_up=10) == pytest.approx(0.1)
    assert learning_rate(1.0, end.progress, end.step, warm_up=10) == pytest.approx(0.05)


def test_going_on_with_the_autoencoder_keeps_its_encoder(work, tmp_path):
    shutil.copy(work / "vae.pt", tmp_path)
    train("vae", tmp_path, limit(SMALL, "vae", None, 2), again=True)
    before, after = (load_checkpoint(folder / "vae.pt")["vae"] for folder in (work, tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)


def test_the_log_grows_with_training(tmp_path):
    short = dataclasses.replace(SMALL, vae=dataclasses.replace(SMALL.vae, steps=25))
    train("vae", tmp_path, short)
    with (tmp_path / "vae.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [25]


def test_a_mix_is_the_mean_by_shares():
    from demo.mix import mix

    first, second = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([4.0, 0.0])}
    assert mix([first, second], [3, 1])["w"].tolist() == [1.0, 3.0]


def test_a_loss_that_is_no_number_ends_the_training(work, monkeypatch):
    """Days of training would go on with weights that are lost."""
    before = load_checkpoint(work / "flow-32.pt")

    def lose(model, *batch):
        return model.transformer.proj_out.weight.sum() * float("nan")

    monkeypatch.setattr("demo.training.train_flow.flow_loss", lose)
    with pytest.raises(FloatingPointError, match="the loss of step"):
        train("flow-32", work, limit(SMALL, "flow-32", None, 2), again=True)
    after = load_checkpoint(work / "flow-32.pt")
    assert after["total"] == before["total"]
