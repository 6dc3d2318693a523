"""Why a latent has no recording: one sentence for each cause, told from the graph before it."""

import pytest
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.hosts.comfyui.upstream import Node, Upstream
from conceptattention.conceptattention_core.recording import RecordSpec
from conceptattention.nodes.record import specs_of

from ...comfyui.graphs import changed, node, painting
from ...comfyui.tiny import TINY
from .families.common import VARIANTS


def upstream(graph: dict, name: str = "maps") -> Upstream:
    nodes = {at: Node(one["class_type"], one["inputs"]) for at, one in graph.items()}
    return Upstream.of(nodes.get, name, "latent")


def refusal(server, graph) -> str:
    result = server.queue(graph, check=False)
    assert result.error_node == "maps"
    return result.error


def test_a_sampler_that_makes_no_step(server):
    graph = changed(painting(seed=7001), sampler={"denoise": 0.0})
    assert "KSampler makes no step" in refusal(server, graph)


def test_no_record_concepts_at_all(server):
    graph = changed(painting(seed=7002), sampler={"model": ["demo", 0]})
    assert "No Record Concepts lies before this latent" in refusal(server, graph)


def test_without_record_concepts_no_earlier_equal_picture_answers(server):
    recorded = painting(seed=7005)
    assert "maps" in server.queue(recorded).executed
    graph = changed(painting(seed=7005), sampler={"model": ["demo", 0]})
    del graph["record"]
    assert "No Record Concepts lies before this latent" in refusal(server, graph)
    graph["record"] = recorded["record"]  # the MODEL that is meant tells, too
    graph["maps"]["inputs"]["model"] = ["record", 0]
    assert "maps" in server.queue(graph).executed


def test_record_concepts_on_the_second_model_of_a_merge(server):
    graph = changed(painting(seed=7003), sampler={"model": ["merge", 0]})
    graph["merge"] = node("ModelMergeSimple", model1=["demo", 0], model2=["record", 0], ratio=0.5)
    assert "goes into 'model2' of ModelMergeSimple" in refusal(server, graph)
    graph["merge"]["inputs"].update(model1=["record", 0], model2=["demo", 0])
    assert "maps" in server.queue(graph).executed


@pytest.mark.parametrize(
    "change", [node("LatentMultiply", multiplier=1.5), node("LatentRotate", rotation="90 degrees")]
)
def test_a_latent_that_was_changed_after_its_sampler(server, change):
    graph = changed(painting(seed=7004, size=(128, 96)), maps={"latent": ["change", 0]})
    change["inputs"]["samples"] = ["sampler", 0]
    graph["change"] = change
    assert f"{change['class_type']} changed it" in refusal(server, graph)


def test_a_sampler_that_goes_round_comfyui():
    """Nothing was recorded though all is connected."""
    graph = painting()
    graph["sampler"]["class_type"] = "XlabsSampler"
    told = upstream(graph).explain(recorded=False)
    assert told.startswith("XlabsSampler made this latent without ComfyUI's samplers")


def test_a_guider_leads_to_the_sampler_too():
    graph = painting()
    graph["sampler"] = node("OwnSampler", guider=["guider", 0], latent_image=["empty", 0])
    graph["guider"] = node("BasicGuider", model=["record", 0], conditioning=["prompt", 0])
    assert upstream(graph).explain(recorded=False).startswith("OwnSampler made this latent")


def test_what_record_concepts_is_set_to_stands_in_the_graph():
    graph = painting("cat, sky")
    assert [spec.concepts.names for spec in specs_of(upstream(graph))] == [("cat", "sky")]
    # words that come from another node are not known before it ran
    graph["record"]["inputs"]["concepts"] = ["words", 0]
    assert specs_of(upstream(graph)) == []


def test_nothing_lies_before_an_input_that_is_not_connected():
    graph = painting()
    del graph["maps"]["inputs"]["latent"]
    assert upstream(graph).nodes == {}


def test_a_graph_may_lead_in_circles():
    """ComfyUI refuses these; a node of a loop pack may see one all the same."""
    graph = painting()
    graph["demo"]["inputs"]["again"] = ["maps", 0]
    assert "sampler" in upstream(graph).nodes


def test_what_was_recorded_is_known_by_its_settings():
    tiny = TINY["Flux.1"]
    STORE.clear()
    tiny.sample(tiny.recorded("cat, sky"))
    assert STORE.recorded([RecordSpec(parse("cat, sky"))])
    assert not STORE.recorded([RecordSpec(parse("dog, sky"))])


def test_layers_are_found_after_the_official_template_cut_them():
    """Its graph drops the first layer and makes the others a batch."""
    if not VARIANTS["Qwen-Image-Layered"].is_here():
        pytest.skip("this ComfyUI has no layers")
    import comfy_extras.nodes_post_processing  # noqa: F401 - first: the two import each other
    from comfy_extras import nodes_latent as nodes

    STORE.clear()
    tiny = VARIANTS["Qwen-Image-Layered"].make()
    latent = tiny.sample(tiny.recorded())
    whole = STORE.find(latent)
    (cut,) = nodes.LatentCut.execute({"samples": latent}, "t", 1, 16384).args
    (batch,) = nodes.LatentCutToBatch.execute(cut, "t", 1).args
    frames = whole.grid.time.frames
    assert batch["samples"].shape[0] == len(latent) * (frames - 1)
    found = STORE.find(batch["samples"])
    assert found.pictures == len(batch["samples"])
    kept = [b * frames + frame for b in range(len(latent)) for frame in range(1, frames)]
    assert torch.equal(found.scores, whole.scores[kept])
