"""The workflows of the pack, run on a real server."""

import numpy as np
import pytest

from ..comfyui.graphs import changed, masks, node, painting, pictures, unrecorded
from .common import FILES, each_workflow, put_example, twin, with_demo_model


@pytest.fixture(autouse=True, scope="module")
def _example(server) -> None:
    put_example(server)


@each_workflow
def test_every_node_of_it_runs_and_shows_something(server, file):
    prompt = with_demo_model(twin(file))
    for one in prompt.values():
        if one["class_type"] == "ConceptAttentionGate":
            one["inputs"]["coverage"] = 0.0  # four steps show little
    result = server.queue(prompt)
    assert {*result.executed, *result.cached} == set(prompt)
    shows = {"PreviewImage", "SaveImage", "MaskPreview", "ConceptAttentionOverlay",
             "ConceptAttentionSheet", "ConceptAttentionScores", "ConceptAttentionExplorer",
             "ConceptAttentionSaveLayers", "ConceptAttentionSaveMasks"}  # fmt: skip
    for name, one in prompt.items():
        if one["class_type"] in shows:
            assert any(result.outputs[name].values()), one["class_type"]


@pytest.mark.parametrize("file", [f for f in FILES if "masks" in f.stem], ids=lambda f: f.stem)
def test_it_generates_and_masks_every_word(server, file):
    prompt = with_demo_model(twin(file))
    ids = {one["class_type"]: name for name, one in prompt.items()}
    views = [n for n, one in prompt.items() if one["class_type"] == "ConceptAttentionOverlay"]
    prompt["names"] = node("PreviewAny", source=[ids["ConceptAttentionMasks"], 1])
    asked = ids.get("ConceptAttentionRecord") or ids["ConceptAttentionLocate"]
    lines = prompt[asked]["inputs"]["concepts"].splitlines()
    words = [line.partition(":")[0].strip() for line in lines]

    result = server.queue(prompt)
    if "SaveImage" in ids:
        (picture,) = pictures(server, result, ids["SaveImage"])
        assert picture.shape == (256, 256, 3)
    assert list(result.outputs["names"]["text"]) == words
    drawn = masks(server, result, ids["PreviewImage"])
    assert drawn.shape == (len(words), 256, 256)
    assert set(np.unique(drawn)) == {0, 255}
    for name in views:
        (view,) = pictures(server, result, name)
        if prompt[name]["inputs"]["view"] == "regions":
            assert view.shape[1] == 256, "as wide as the picture"
        assert view.shape[0] > 256, "and taller, because of the legend"


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch": 3}, {"cfg": 1.0}, {"size": (264, 200)}],
    ids=["plain", "batch", "cfg 1", "264 x 200"],
)
def test_recording_changes_no_pixel(server, settings):
    graph = painting(**settings)
    listened = server.queue(graph)
    alone = server.queue(unrecorded(graph))
    assert "sampler" in alone.executed
    heard, plain = (np.stack(pictures(server, run, "picture")) for run in (listened, alone))
    assert np.ptp(plain) > 50, "a picture, not a plain colour"
    assert (heard == plain).all()

    width, height = settings.get("size", (128, 128))
    batch = settings.get("batch", 1)
    assert plain.shape == (batch, height, width, 3)
    assert masks(server, listened).shape == (3 * batch, height, width)


def test_a_batch_has_masks_of_its_own_for_each_picture(server):
    result = server.queue(painting(batch=3))
    by_word = masks(server, result).reshape(3, 3, 128, 128)
    seen = {by_word[:, picture].tobytes() for picture in range(3)}
    assert len(seen) == 3


def test_soft_masks_reach_both_ends_exactly(server):
    graph = changed(painting(), masks={"soft": True, "keep_absent": True})
    soft = masks(server, server.queue(graph))
    assert soft.min(axis=(1, 2)).tolist() == [0] * 3
    assert soft.max(axis=(1, 2)).tolist() == [255] * 3
    assert len(np.unique(soft)) > 50
