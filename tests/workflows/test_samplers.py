"""Any sampler node."""

import numpy as np
import pytest

from ..comfyui.graphs import changed, masks, masks_of, node, painting
from .common import put_example


@pytest.fixture(autouse=True, scope="module")
def _example(server) -> None:
    put_example(server)


def test_both_stages_of_ksampler_advanced_have_maps(server):
    graph = painting(steps=4)
    settings = graph.pop("sampler")["inputs"]
    del settings["denoise"]
    settings["noise_seed"] = settings.pop("seed")
    graph["sampler"] = node("KSamplerAdvanced", **{
        **settings, "add_noise": "enable", "start_at_step": 0, "end_at_step": 2,
        "return_with_leftover_noise": "enable",
    })  # fmt: skip
    graph["second"] = node("KSamplerAdvanced", **{
        **settings, "add_noise": "disable", "start_at_step": 2, "end_at_step": 10000,
        "return_with_leftover_noise": "disable", "latent_image": ["sampler", 0],
    })  # fmt: skip
    graph |= masks_of(["second", 0], "second ")
    graph = changed(graph, decode={"samples": ["second", 0]})
    for name in ("masks", "second masks"):
        graph[name]["inputs"]["keep_absent"] = True
    result = server.queue(graph)
    first, second = masks(server, result), masks(server, result, "second shown")
    assert first.shape == second.shape == (3, 128, 128)
    assert set(np.unique(first)) == set(np.unique(second)) == {0, 255}
    assert (first != second).any(), "each stage has a recording of its own"


def test_both_outputs_of_sampler_custom_advanced_have_maps(server):
    graph = painting()
    settings = graph["sampler"]["inputs"]
    conditions = {key: settings[key] for key in ("model", "positive", "negative", "cfg")}
    graph["guider"] = node("CFGGuider", **conditions)
    graph["noise"] = node("RandomNoise", noise_seed=settings["seed"])
    graph["euler"] = node("KSamplerSelect", sampler_name="euler")
    graph["sigmas"] = node(
        "BasicScheduler", model=["record", 0], scheduler="simple", steps=3, denoise=1.0
    )
    graph["sampler"] = node(
        "SamplerCustomAdvanced",
        noise=["noise", 0],
        guider=["guider", 0],
        sampler=["euler", 0],
        sigmas=["sigmas", 0],
        latent_image=["empty", 0],
    )
    graph |= masks_of(["sampler", 1], "denoised ")
    result = server.queue(graph)
    drawn = masks(server, result)
    assert drawn.shape == (3, 128, 128) and drawn.any()
    assert (masks(server, result, "denoised shown") == drawn).all()
    assert (masks(server, server.queue(painting())) == drawn).all(), "as KSampler with this seed"
