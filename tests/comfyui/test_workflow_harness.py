"""`bench.workflows` on the gallery, on a stranger's graph, and on what cannot run."""

import json
import os
from pathlib import Path

import pytest

from bench.workflows import FAMILIES, Outcome, family_of, serving, table, try_file, with_record

from .graphs import WORKFLOWS, node, painting

GALLERY = sorted((WORKFLOWS / "api").glob("*.json"))


@pytest.fixture(scope="module")
def bench():
    with serving(Path(os.environ["COMFYUI_PATH"])) as server:
        yield server, server.object_info()


def tried(bench, folder: Path, content: object) -> Outcome:
    file = folder / "workflow.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return try_file(*bench, file)


def strangers(model: str = "flux1-dev.safetensors", **sampler) -> dict:
    """A graph of core nodes alone."""
    settings = {"seed": 1, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "denoise": 1.0}
    return {
        "1": node("UNETLoader", unet_name=model, weight_dtype="default"),
        "2": node("DualCLIPLoader", clip_name1="a", clip_name2="b", type="flux"),
        "3": node("CLIPTextEncode", clip=["2", 0], text="a red balloon above water"),
        "4": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=2),
        "5": node(
            "KSampler", model=["1", 0], positive=["3", 0], negative=["3", 0],
            latent_image=["4", 0], scheduler="simple", **{**settings, **sampler},
        ),
        "6": node("VAELoader", vae_name="ae.safetensors"),
        "7": node("VAEDecode", samples=["5", 0], vae=["6", 0]),
        "8": node("SaveImage", images=["7", 0], filename_prefix="x"),
    }  # fmt: skip


@pytest.mark.parametrize("file", GALLERY, ids=lambda file: file.stem)
def test_the_gallery_runs_with_all_maps_and_the_same_bits(bench, file):
    outcome = try_file(*bench, file)
    if file.stem == "photo_to_masks":
        assert outcome.baseline == "no node samples with a MODEL"
        return
    assert (outcome.baseline, outcome.recorded, outcome.maps, outcome.bits) == ("ok", "ok", "ok", 0)
    assert outcome.pictures >= 1
    assert not outcome.harmed


@pytest.mark.parametrize(
    ("model", "family"),
    [("flux1-dev.safetensors", "Flux.1"), ("qwen_image_fp8.safetensors", "Qwen-Image")],
)
def test_a_strangers_graph_is_recorded_and_keeps_its_bits(bench, tmp_path, model, family):
    outcome = tried(bench, tmp_path, strangers(model))
    assert outcome == Outcome("workflow.json", family, "ok", "ok", "ok", 2, 0)


def test_a_guider_of_its_own_is_recorded(bench, tmp_path):
    graph = strangers()
    graph["5"] = node(
        "SamplerCustomAdvanced", noise=["n", 0], guider=["g", 0], sampler=["s", 0],
        sigmas=["t", 0], latent_image=["4", 0],
    )  # fmt: skip
    graph |= {
        "n": node("RandomNoise", noise_seed=1),
        "g": node("BasicGuider", model=["1", 0], conditioning=["3", 0]),
        "s": node("KSamplerSelect", sampler_name="euler"),
        "t": node("BasicScheduler", model=["1", 0], scheduler="simple", steps=4, denoise=1.0),
    }
    outcome = tried(bench, tmp_path, graph)
    assert (outcome.maps, outcome.pictures, outcome.bits) == ("ok", 2, 0)


def test_what_cannot_run_is_an_outcome_with_a_reason(bench, tmp_path):
    alien = {**strangers(), "9": node("SomebodysNode")}
    assert "SomebodysNode" in tried(bench, tmp_path, alien).baseline
    lora = strangers()
    lora["9"] = node("LoraLoaderModelOnly", model=["1", 0], lora_name="own.st", strength_model=1.0)
    lora["5"]["inputs"]["model"] = ["9", 0]
    assert "own.st" in tried(bench, tmp_path, lora).baseline
    broken = strangers(sampler_name="nobody")
    assert "nobody" in tried(bench, tmp_path, broken).baseline
    no_sampler = {"1": node("EmptyImage", width=64, height=64, batch_size=1, color=0)}
    assert tried(bench, tmp_path, no_sampler).baseline == "no node samples with a MODEL"
    for content in ("{", "[]", "{}", {"a": 1}, {"a": {"class_type": "KSampler"}}):
        outcome = tried(bench, tmp_path, content)
        assert outcome.baseline.startswith(("no JSON", "no workflow")), content
        assert (outcome.recorded, outcome.bits, outcome.harmed) == ("not run", None, False)
    assert "COMFYUI_BROWSER" in tried(bench, tmp_path, {"nodes": [], "links": []}).baseline


def test_a_changed_bit_and_a_missing_map_are_seen():
    fine = Outcome("a", "Flux.1", "ok", "ok", "ok", 2, 0)
    changed = Outcome("b", "Flux.1", "ok", "ok", "ok", 2, 3)
    unmapped = Outcome("c", "Flux.1", "ok", "ok", "1 of 2 pictures", 2, 0)
    lost = Outcome("d", "Flux.1", "ok", "node 5: failed")
    strange = Outcome("e", baseline="nodes that are not here: X")
    harmed = [one.harmed for one in (fine, changed, unmapped, lost, strange)]
    assert harmed == [False, True, True, True, False]
    assert "4 of 5 run; 2 give all maps; 1 changed." in table(
        [fine, changed, unmapped, lost, strange]
    )


def test_families_are_told_by_the_names_of_files():
    from .tiny import TINY

    assert set(FAMILIES.values()) <= set(TINY)
    assert family_of(strangers("flux-2-klein-4b.safetensors")) == "Flux.2"
    assert family_of(strangers("z_image_turbo.safetensors")) == "Z-Image"
    assert family_of(strangers("anything.safetensors")) == "Flux.1"


def test_record_stands_once_before_a_model_that_has_none():
    own = painting()
    assert with_record(own, {"sampler": 0}) == own
    graph = with_record(strangers(), {"5": 0})
    (place,) = set(graph) - set(strangers())
    assert graph["5"]["inputs"]["model"] == [place, 0]
    assert graph[place]["inputs"]["model"] == ["1", 0]
