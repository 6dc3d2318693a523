"""The workflows of the pack as files: every node, link and widget is known."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ..comfyui.graphs import WORKFLOWS
from .common import (
    FILES,
    MODELS,
    choices,
    each_workflow,
    inputs_of,
    pretend_models,
    put_example,
    read,
    twin,
    widget_values,
)

NOTES = {"MarkdownNote", "Note"}  # live on the page alone; the server does not know them


@pytest.fixture(scope="module")
def known(server) -> dict[str, Any]:
    """object_info of a server that has every model file which a workflow says it needs."""
    pretend_models(server)
    return server.object_info()


@pytest.fixture(autouse=True, scope="module")
def _example(server) -> None:
    put_example(server)


def to_api(workflow: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What the page makes of a workflow when Run is pressed."""
    sources = {link: [str(node), slot] for link, node, slot, *_ in workflow["links"]}
    prompt = {}
    for shown in workflow["nodes"]:
        if shown["type"] not in NOTES:
            inputs = widget_values(shown, known[shown["type"]])
            for slot in shown["inputs"]:
                if slot["link"] is not None:
                    inputs[slot["name"]] = sources[slot["link"]]
            prompt[str(shown["id"])] = {"class_type": shown["type"], "inputs": inputs}
    return prompt


def test_there_are_workflows():
    both = ("first_masks", "change_only_this", "swap_background", "grade_one_thing",
            "layers_to_file", "regions_that_find_themselves", "compare_spaces", "seed_picker",
            "look_inside")  # fmt: skip
    expected = {*both, *(f"{name}_flux_dev" for name in both)}
    assert {file.stem for file in FILES} == expected | {"photo_to_masks", "picture_to_masks_demo"}
    assert {file.name for file in FILES} == {f.name for f in (WORKFLOWS / "api").glob("*.json")}


@pytest.fixture(params=[*FILES, *MODELS], ids=lambda file: file.stem)
def served(request, known) -> Path:
    """A workflow whose nodes and kinds of models this ComfyUI has."""
    if request.param in MODELS:
        for shown in read(request.param)["nodes"]:
            info = known.get(shown["type"])
            if info is None and shown["type"] not in NOTES:
                pytest.skip(f"this ComfyUI has no {shown['type']}")
            kind = widget_values(shown, info).get("type") if "CLIPLoader" in shown["type"] else None
            if kind is not None and kind not in choices(*inputs_of(info)["type"]):
                pytest.skip(f"this ComfyUI does not load {kind}")
    return request.param


def test_nodes_inputs_and_values_are_accepted(known, served):
    for shown in read(served)["nodes"]:
        if shown["type"] in NOTES:
            continue
        assert shown["type"] in known
        declared = inputs_of(known[shown["type"]])
        assert {slot["name"] for slot in shown["inputs"]} <= set(declared)
        for name, value in widget_values(shown, known[shown["type"]]).items():
            kind, options = declared[name]
            allowed = choices(kind, options)
            if allowed is not None:
                assert value in allowed, f"{shown['type']}: {name}"
            else:
                expected = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
                assert isinstance(value, expected[kind]), f"{shown['type']}: {name}"
                if kind in ("INT", "FLOAT"):
                    assert options["min"] <= value <= options["max"], f"{shown['type']}: {name}"


def test_links_fit_at_both_ends(known, served):
    workflow = read(served)
    nodes = {shown["id"]: shown for shown in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    assert max(nodes) <= workflow["last_node_id"]
    leaving = {(n, s): set(out["links"] or []) for n, s, out in slots(nodes, "outputs")}
    arriving = {(n, s): slot for n, s, slot in slots(nodes, "inputs") if slot["link"] is not None}
    for link, source, out, target, into, kind in workflow["links"]:
        assert link <= workflow["last_link_id"]
        leaving[source, out].remove(link)
        slot = arriving.pop((target, into))
        assert slot["link"] == link
        assert known[nodes[source]["type"]]["output"][out] == kind
        assert inputs_of(known[nodes[target]["type"]])[slot["name"]][0] == kind
    assert (any(leaving.values()), arriving) == (False, {}), "a slot names a link that is not there"


def slots(nodes: dict[int, dict[str, Any]], side: str):
    return ((n, s, slot) for n, shown in nodes.items() for s, slot in enumerate(shown[side]))


@each_workflow
def test_the_api_twin_is_the_same_graph(known, file):
    without_titles = {
        name: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for name, node in twin(file).items()
    }
    assert to_api(read(file), known) == without_titles


@each_workflow
def test_the_template_browser_shows_it_with_a_picture(server, file):
    offered = server.get("/api/workflow_templates")
    assert file.stem in offered["conceptattention"]
    place = f"/api/workflow_templates/conceptattention/{file.stem}"
    assert server.get(f"{place}.json") == read(file)
    picture = server.get(f"{place}.jpg")
    assert picture == file.with_suffix(".jpg").read_bytes()
    assert len(picture) < 100_000
    with Image.open(file.with_suffix(".jpg")) as thumbnail:
        assert (thumbnail.format, thumbnail.width) == ("JPEG", 640)
