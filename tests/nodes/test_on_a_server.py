"""The nodes that put maps and masks to use, on a real server."""

import json
import time
import urllib.request

import numpy as np
import pytest
from conceptattention.conceptattention_core import ConceptAttentionError
from PIL import Image

from ..comfyui.graphs import WORDS, changed, node, painting, pictures
from .common import regions, thirds


def tools() -> dict:
    """The demo paints two pictures, and everything is made of them."""
    graph = painting(batch=2)
    graph["masks"]["inputs"]["threshold"] = "competition"
    named = {"mask": ["masks", 0], "name": ["masks", 1]}
    both = {"masks": ["masks", 0], "names": ["masks", 1]}
    base = {"clip": ["demo", 1], "conditioning": ["prompt", 0]}
    seen = {"maps": ["maps", 0], "image": ["decode", 0]}
    steer = {"prompts": "water: grass, sky: a dark sky with a moon", "strength": 2.0}
    again = changed(graph, sampler={"model": ["demo", 0], "positive": ["regions", 0]})
    return {
        **graph,
        "files": node("ConceptAttentionSaveMasks", **named, folder="tools/masks"),
        "layers": node("ConceptAttentionLayers", image=["decode", 0], **both),
        "psd": node("ConceptAttentionSaveLayers", layers=["layers", 0], filename_prefix="tools/x"),
        "scores": node("ConceptAttentionScores", maps=["maps", 0]),
        "sheet": node("ConceptAttentionSheet", maps=["maps", 0], name="sky"),
        "labels": node("ConceptAttentionLabels", **seen),
        "numbers": node("MaskToImage", mask=["labels", 1]),
        "shown numbers": node("PreviewImage", images=["numbers", 0]),
        "parts": node("ConceptAttentionSplit", mask=["masks", 0], islands=1.0),
        "converted": node("MaskToImage", mask=["parts", 0]),
        "shown parts": node("PreviewImage", images=["converted", 0]),
        "cut": node("ConceptAttentionCutOut", image=["decode", 0], mask=["masks", 0], crop=False,
                    margin=0),
        "shown cut": node("PreviewImage", images=["cut", 0]),
        "regions": node("ConceptAttentionRegions", **base, **both, **steer,
                        only_mentioned=False),
        "second": again["sampler"],
        "decoded": node("VAEDecode", samples=["second", 0], vae=["demo", 2]),
        "steered": node("PreviewImage", images=["decoded", 0]),
        "boxes": node("ConceptAttentionBoxes", mask=["masks", 0], name=["masks", 1],
                      each_part=True, margin=0, crop_factor=2.0),
        "shown points": node("PreviewAny", source=["boxes", 3]),
        "gate": node("ConceptAttentionGate", **seen, names="", coverage=0.0,
                     latent=["sampler", 0]),
        "passed latent": node("VAEDecode", samples=["gate", 2], vae=["demo", 2]),
        "passed again": node("PreviewImage", images=["passed latent", 0]),
        "passed": node("PreviewImage", images=["gate", 0]),
    }  # fmt: skip


def queue_with_workflow(server, graph: dict, workflow: dict) -> dict:
    """Run a prompt as the page does it, with the workflow for the files; the outputs."""
    body = {"prompt": graph, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    request = urllib.request.Request(f"{server.url}/prompt", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        prompt_id = json.load(answer)["prompt_id"]
    end = time.monotonic() + 180
    while time.monotonic() < end:
        if found := server.get(f"/history/{prompt_id}"):
            return found[prompt_id]["outputs"]
        time.sleep(0.1)
    raise TimeoutError(server.log()[-4000:])


def test_all_tools_work_on_a_server(server):
    result = server.queue(tools())
    words = WORDS.split(", ")
    images = np.stack(pictures(server, result, "picture"))
    files = result.outputs["files"]["images"]
    assert [one["filename"] for one in files] == [
        f"{word}_0000{i}_.png" for word in words for i in (1, 2)
    ]
    masks = np.stack([server.image(one)[..., 0] for one in files]).reshape(3, 2, 128, 128)
    assert (masks.astype(int).sum(0) == 255).all()
    labels = np.stack(pictures(server, result, "shown numbers"))[..., 0]
    assert labels.max() <= 2
    cut = np.stack(pictures(server, result, "shown cut")).reshape(3, 2, 128, 128, 4)
    assert np.array_equal(cut[..., 3], masks)
    assert np.array_equal(cut[..., :3], np.broadcast_to(images, (3, *images.shape)))
    parts = np.stack(pictures(server, result, "shown parts"))
    assert len(parts) >= 6 and set(np.unique(parts)) <= {0, 255}
    for passed in ("passed", "passed again"):
        assert np.array_equal(np.stack(pictures(server, result, passed)), images)
    assert len(pictures(server, result, "sheet")) == 2
    (text,) = result.outputs["scores"]["text"]
    assert all(word in text for word in words)
    assert result.outputs["psd"]["text"] == ["x_00001_.psd"]
    points = [json.loads(text) for text in result.outputs["shown points"]["text"]]
    for mask, own in zip(masks[:, 0], points, strict=True):
        assert bool(own) == mask.any()
        assert all(mask[point["y"], point["x"]] == 255 for point in own)
    psd = pytest.importorskip("psd_tools").PSDImage.open(
        server.folder / "output" / "tools" / "x_00001_.psd"
    )
    assert psd.size == (128, 128)
    present = [word for word, mask in zip(words, masks[:, 0]) if mask.any()]
    assert [layer.name for layer in psd] == ["picture", *present]
    steered = np.stack(pictures(server, result, "steered")).astype(int)
    assert np.abs(steered - images).mean() > 1


def test_saved_masks_carry_the_prompt_and_the_workflow(server):
    graph = {**painting("sun, sky", seed=5), "files": node(
        "ConceptAttentionSaveMasks", mask=["masks", 0], name=["masks", 1], folder="carried",
    )}  # fmt: skip
    workflow = {"nodes": [], "note": "日本 🎈"}
    saved = [
        one
        for _ in range(2)
        for one in queue_with_workflow(server, graph, workflow)["files"]["images"]
    ]
    assert {one["subfolder"] for one in saved} == {"carried"}
    for one in saved:
        held = Image.open(server.folder / "output" / "carried" / one["filename"]).text
        assert json.loads(held["workflow"]) == workflow
        assert json.loads(held["prompt"]) == graph


def test_a_closed_gate_stops_what_follows_it_and_nothing_else(server):
    graph = changed(tools(), gate={"names": "balloon", "coverage": 100.0})
    for name in ("psd", "files", "steered", "sheet", "passed again"):
        del graph[name]
    graph["scores"]["inputs"]["maps"] = ["maps", 0]
    result = server.queue(graph, check=False)
    assert "Concept Gate: none of 2 pictures shows balloon" in result.error
    assert result.error_node == "passed"
    assert "passed" not in result.outputs
    assert {"scores", "picture", "shown cut"} <= set(result.outputs)


@pytest.mark.parametrize("line", ["a golden balloon", "sun:", ": gold"])
def test_a_line_that_names_no_region_is_refused(line):
    with pytest.raises(ConceptAttentionError, match="one 'name: prompt' per line"):
        regions(thirds(), ["sun", "moon", "sky"], prompts=line)
