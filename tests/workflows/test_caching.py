"""What runs again after a change, and whether maps survive what ComfyUI does to its caches."""

import os
from pathlib import Path

import comfy.cli_args
import pytest

from ..comfyui.graphs import changed, masks, masks_of, node, painting, pictures, recorded
from ..comfyui.server import Server

MASKING = {"masks", "convert", "shown"}
READING = {"maps", *MASKING}
LISTENING = {"record", "sampler", "decode", "picture", *READING}


def ran(result) -> set[str]:
    return set(result.executed)


@pytest.fixture
def graph():
    return painting(seed=4000)


@pytest.fixture
def first(server, graph):
    """The graph as it stands has just been run: all of it is cached."""
    return server.queue(graph)


def test_the_same_prompt_again_runs_nothing(server, graph, first):
    again = server.queue(graph)
    assert ran(again) == set()
    assert (masks(server, again) == masks(server, first)).all()


@pytest.mark.parametrize("change", [{"threshold": "otsu"}, {"soft": True}, {"keep_absent": True}])
def test_a_threshold_draws_masks_again_and_no_more(server, graph, first, change):
    result = server.queue(changed(graph, masks=change))
    assert ran(result) == MASKING
    assert masks(server, result).shape == masks(server, first).shape


@pytest.mark.parametrize(
    "change",
    [{"steps": "1-2"}, {"blocks": "last 2"}, {"temperature": 0.5}, {"order": "mean, then softmax"}],
)
def test_steps_and_blocks_read_the_recording_again_and_no_more(server, graph, first, change):
    result = server.queue(changed(graph, maps=change))
    assert ran(result) == READING
    assert masks(server, result).shape == masks(server, first).shape


def test_other_concepts_sample_again_to_the_same_picture(server, graph, first):
    result = server.queue(changed(graph, record={"concepts": "sky, grass, house, tree"}))
    assert ran(result) == LISTENING
    (again,), (before,) = (pictures(server, run, "picture") for run in (result, first))
    assert (again == before).all()
    assert len(masks(server, result)) == 4


def test_two_recordings_of_one_picture_are_told_apart_by_their_model(server):
    """Without the optional input the newest recording of this very picture would answer."""
    one = painting(seed=4001)
    spaces = {"output": "", "cross-attention": "second "}
    both = {**one, **masks_of(["second sampler", 0], "second ")}
    both["second record"] = recorded(space="cross-attention")
    both["second sampler"] = node(
        "KSampler", **{**one["sampler"]["inputs"], "model": ["second record", 0]}
    )
    for prefix in spaces.values():
        both[f"{prefix}maps"]["inputs"]["model"] = [f"{prefix}record", 0]
        both[f"{prefix}masks"]["inputs"].update(soft=True, keep_absent=True)
    result = server.queue(both)
    found = {space: masks(server, result, f"{own}shown") for space, own in spaces.items()}
    assert (found["output"] != found["cross-attention"]).any()

    for space, drawn in found.items():
        alone = changed(
            one,
            record={"space": space, "memory": 65},  # so that nothing of the above is cached
            masks={"soft": True, "keep_absent": True},
        )
        result = server.queue(alone)
        assert ran(result) >= {"record", "sampler", "maps"}
        assert (masks(server, result) == drawn).all(), space


def test_masks_after_memory_was_freed(server, graph, first):
    """Models are unloaded and cached results dropped, the MODEL that listened among them."""
    otsu = changed(graph, masks={"threshold": "otsu"})
    before = masks(server, server.queue(otsu))
    server.free()
    result = server.queue(otsu)
    assert {"demo", "record"} <= ran(result)
    assert (masks(server, result) == before).all()
    again = server.queue(graph)
    assert ran(again) == MASKING
    assert (masks(server, again) == masks(server, first)).all()


def test_an_interrupted_run_leaves_nothing_behind(server):
    graph = painting(seed=4002, steps=20)  # so many that there is time to interrupt

    def stop_after_the_first_step(kind, data):
        if kind == "progress" and data["node"] == "sampler" and data["value"] == 1:
            server.interrupt()

    stopped = server.queue(graph, check=False, on_message=stop_after_the_first_step)
    assert (stopped.error, stopped.error_node) == ("interrupted", "sampler")

    result = server.queue(graph)
    assert "sampler" in ran(result)
    uninterrupted = server.queue(changed(graph, record={"memory": 65}))
    assert "sampler" in ran(uninterrupted)
    assert (masks(server, result) == masks(server, uninterrupted)).all()


NO_MEMORY = "--cache-ram", "100000"  # GB that are to stay free; every node's result is in the way


@pytest.mark.parametrize(
    "options", [["--cache-none"], ["--cache-lru", "5"], NO_MEMORY], ids=" ".join
)
def test_masks_when_little_or_nothing_is_cached(server, tmp_path, options):
    if options is NO_MEMORY and not hasattr(comfy.cli_args.args, "cache_ram"):
        pytest.skip("this ComfyUI has no such cache")
    graph = changed(painting(seed=4003), maps={"model": ["record", 0]})
    between = {
        "plain": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "shown": node("PreviewImage", images=["plain", 0]),
    }
    later = changed(graph, maps={"steps": "1-2"})
    forgetful = Server(Path(os.environ["COMFYUI_PATH"]), tmp_path / "base", *options)
    try:
        first, _, second = (forgetful.queue(one) for one in (graph, between, later))
        found = [masks(forgetful, result) for result in (first, second)]
    finally:
        forgetful.stop()
    assert ran(second) >= LISTENING
    for one, drawn in zip((graph, later), found, strict=True):
        assert (drawn == masks(server, server.queue(one))).all()
