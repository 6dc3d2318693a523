"""What can be known before sampling is told before sampling, and the rest of a graph still runs."""

import json
import urllib.error
import urllib.request

import pytest

from ..comfyui.graphs import changed, node, painting, picked, recorded

LOCATE = "ConceptAttentionLocate"
WRONG = "There is no concept named 'bird'. Recorded: balloon, sky, water."


def refused(server, graph: dict) -> str:
    """Why the server takes none of a graph."""
    with pytest.raises(server.PromptError) as error:
        server.queue(graph)
    assert error.value.result is None, "it began to run"
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"record": {"concepts": " ,, "}}, "No concepts were given"),
        ({"record": {"concepts": "\x00\ud83d"}}, "No concepts were given"),
        ({"record": {"concepts": ",".join(f"thing {i}" for i in range(65))}}, "at most 64"),
        ({"record": {"concepts": "background"}}, "alone has nothing to differ from"),
        ({"record": {"blocks": "deep"}}, "Could not read 'deep' as a range of blocks"),
        ({"record": {"live": "bird", "live_every": 4}}, WRONG),
        ({"maps": {"steps": "5-2"}}, "Could not read '5-2' as a range of steps"),
        ({"maps": {"blocks": "9" * 5000}}, "as a range of blocks"),
        ({"maps": {"steps": "deep\ud83d"}}, "Could not read 'deep' as a range of steps"),
    ],
)
def test_widgets_that_no_run_could_use_are_refused_at_once(server, changes, told):
    graph = changed(painting(), **changes)
    del graph["picture"]
    assert told in refused(server, graph)


def asking(kind: str, **inputs) -> dict:
    """A graph in which a node asks for concepts by name."""
    graph = painting()
    del graph["picture"], graph["shown"], graph["convert"], graph["masks"]
    end = node("PreviewImage", images=["asks", 0])
    if kind == "ConceptAttentionPick":
        graph["convert"] = node("MaskToImage", mask=["asks", 0])
        end["inputs"]["images"] = ["convert", 0]
        return {**graph, "asks": changed({"it": picked("sky")}, it=inputs)["it"], "end": end}
    return {**graph, "asks": node(kind, maps=["maps", 0], **inputs), "end": end}


ASKING = [
    asking("ConceptAttentionPick", name="sky, bird"),
    asking("ConceptAttentionGate", image=["decode", 0], names="bird", coverage=0.0),
    asking("ConceptAttentionSheet", name="bird"),
]


@pytest.mark.parametrize("graph", ASKING, ids=["pick", "gate", "sheet"])
def test_a_wrong_name_is_told_before_the_picture_is_generated(server, graph):
    assert WRONG in refused(server, graph)


def test_a_name_that_locate_does_not_look_for_is_told_before_it_looks(server):
    graph = asking("ConceptAttentionSheet", name="bird")
    locate = server.object_info()[LOCATE]["input"]
    widgets = {
        name: kind[1]["default"]
        for part in ("required", "optional")
        for name, kind in locate.get(part, {}).items()
        if "default" in (kind[1] if len(kind) > 1 else {})
    }
    links = {"model": ["demo", 0], "clip": ["demo", 1], "vae": ["demo", 2], "image": ["decode", 0]}
    graph["maps"] = node(LOCATE, **{**widgets, **links, "concepts": "balloon, sky, water"})
    assert WRONG in refused(server, graph)
    graph["asks"]["inputs"]["name"] = "sky"
    assert "end" in server.queue(graph).outputs


def test_no_name_at_all_is_told_before_the_picture_is_generated(server):
    told = refused(server, asking("ConceptAttentionPick", name=" , "))
    assert "No concept was named. Recorded: balloon, sky, water." in told


def test_prompts_for_regions_that_are_none_are_told_before(server):
    graph = painting()
    graph["regions"] = node(
        "ConceptAttentionRegions", clip=["demo", 1], conditioning=["prompt", 0],
        masks=["masks", 0], names=["masks", 1], prompts="bird: a bird", strength=1.0,
        only_mentioned=False,
    )  # fmt: skip
    graph["sampler two"] = changed(graph, sampler={"positive": ["regions", 0]})["sampler"]
    graph["decoded"] = node("VAEDecode", samples=["sampler two", 0], vae=["demo", 2])
    graph["end"] = node("PreviewImage", images=["decoded", 0])
    del graph["picture"], graph["shown"], graph["convert"]
    assert "'prompts' mentions 'bird'" in refused(server, graph)
    graph["regions"]["inputs"]["prompts"] = "bird"
    assert "write one 'name: prompt' per line" in refused(server, graph)


def test_a_name_of_one_of_several_records_is_no_wrong_one(server):
    """Two stages, each with words of its own: the graph leaves open whose the maps are."""
    graph = asking("ConceptAttentionPick", name="bird")
    graph["second"] = recorded("bird, tree")
    stage = {"model": ["second", 0], "latent_image": ["sampler", 0], "denoise": 0.5}
    graph["stage two"] = changed(graph, sampler=stage)["sampler"]
    graph["maps"]["inputs"]["latent"] = ["stage two", 0]
    assert "end" in server.queue(graph).outputs
    graph["asks"]["inputs"]["name"] = "boat"
    assert "There is no concept named 'boat'" in refused(server, graph)


def test_words_that_another_node_writes_are_not_judged_before(server):
    graph = asking("ConceptAttentionPick", name="bird")
    graph["words"] = node("PrimitiveStringMultiline", value="bird, sky")
    graph["record"]["inputs"]["concepts"] = ["words", 0]
    assert "end" in server.queue(graph).outputs


def test_the_picture_is_generated_though_a_name_is_wrong(server):
    graph = {**asking("ConceptAttentionPick", name="bird"), "picture": painting()["picture"]}
    result = server.queue(graph)
    assert "picture" in result.outputs
    assert "asks" not in result.executed


def test_half_an_emoji_leaves_the_server_able_to_work(server):
    """An error that cannot be logged ended ComfyUI's worker: every later prompt hung."""
    graph = asking("ConceptAttentionPick", name="sky \ud83d")
    graph["words"] = node("PrimitiveString", value="bird \ud83d")
    assert "end" in server.queue(graph).outputs  # half an emoji is none
    graph["asks"]["inputs"]["name"] = ["words", 0]
    result = server.queue(graph, check=False)
    assert result.error.startswith("There is no concept named 'bird")
    assert server.queue(painting(seed=5)).outputs["picture"]


def test_files_and_layers_take_any_text(server):
    graph = painting("sky \ud83d, \x00water")
    both = {"masks": ["masks", 0], "names": ["masks", 1]}
    graph |= {
        "files": node("ConceptAttentionSaveMasks", mask=["masks", 0], name=["masks", 1],
                      folder="odd\x00\ud83d/masks"),
        "layers": node("ConceptAttentionLayers", image=["decode", 0], **both),
        "psd": node("ConceptAttentionSaveLayers", layers=["layers", 0],
                    filename_prefix="odd\x00/\ud83dlayers"),
    }  # fmt: skip
    graph["masks"]["inputs"]["threshold"] = "competition"
    result = server.queue(graph)
    found = [f"{one['subfolder']}/{one['filename']}" for one in result.outputs["files"]["images"]]
    assert found == ["odd/masks/sky_00001_.png", "odd/masks/water_00001_.png"]
    assert result.outputs["psd"]["text"] == ["layers_00001_.psd"]


def test_numbers_that_are_none_are_told_by_name(server):
    graph = painting()
    graph["boxes"] = node("ConceptAttentionBoxes", mask=["masks", 0], name=["masks", 1],
                          each_part=False, margin=0, crop_factor=float("nan"))  # fmt: skip
    graph["points"] = node("PreviewAny", source=["boxes", 3])
    result = server.queue(graph, check=False)
    # ComfyUI's own list of jobs would be no JSON for as long as it remembers this prompt
    server.forget_history()
    assert result.error.startswith("'crop_factor' takes a number, got nan.")


def node_errors(server, graph: dict) -> dict:
    request = urllib.request.Request(f"{server.url}/prompt", json.dumps({"prompt": graph}).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["node_errors"]
    except urllib.error.HTTPError as error:
        return json.load(error)["node_errors"]


def test_the_node_that_is_to_blame_is_marked(server):
    found = node_errors(server, ASKING[0])
    assert list(found) == ["asks"]
    (error,) = found["asks"]["errors"]
    assert error["extra_info"]["input_name"] == "name"
    assert error["details"] == f"name - {WRONG}"
