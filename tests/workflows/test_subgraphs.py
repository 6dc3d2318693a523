"""The blueprints of the pack: as files, on a real server, and as nodes on ComfyUI's page."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from conceptattention.tools.subgraphs import make

from ..comfyui.browser import command, drop, run
from ..comfyui.graphs import WORDS, node, painting, pictures, unrecorded
from ..comfyui.server import PACK, ROOT, Prompt
from .common import choices, inputs_of, is_widget, latent, saved, widget_values

FILES = sorted((ROOT / "subgraphs").glob("*.json"))
INPUTS, OUTPUTS = -10, -20  # what the page calls the two ends of a subgraph
SETTINGS: dict[str, dict[str, Any]] = {
    "words_to_masks": {"concepts": WORDS},
    "change_only_this": {
        "concepts": WORDS,
        "change": "sky",
        "feather": 0,  # a hard mask: it says of every pixel whether it may change
        "prompt": "a red balloon above water, night sky",
        "steps": 3,
        "cfg": 3.0,
    },
}
STARTS = {"MASK": "MaskToImage", "STRING": "PreviewAny", "IMAGE": "PreviewImage"}

each_blueprint = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def definition(whole: dict[str, Any]) -> dict[str, Any]:
    (inside,) = whole["definitions"]["subgraphs"]
    return inside


@pytest.fixture(scope="module")
def known(server) -> dict[str, Any]:
    return server.object_info()


@pytest.fixture(scope="module")
def picture(server) -> np.ndarray:
    """A picture by the demo model, h w rgb; its sides fit no latent."""
    graph = unrecorded(painting(size=(256, 208), steps=8))
    (painted,) = pictures(server, server.queue(graph), "picture")
    cut = painted[:202, :250]
    server.upload(cut, "blueprint.png")
    return cut


# --- the files ------------------------------------------------------------------------------------


def test_the_files_are_what_the_generator_makes(known):
    assert {file.stem: read(file) for file in FILES} == make(known)


@each_blueprint
def test_nodes_and_inputs_are_known(known, file):
    for shown in definition(read(file))["nodes"]:
        declared = inputs_of(known[shown["type"]])
        for slot in shown["inputs"]:
            assert ("widget" in slot) == is_widget(*declared[slot["name"]])
        values = widget_values(shown, known[shown["type"]])  # as many as there are widgets
        for name, value in values.items():
            assert value in (choices(*declared[name]) or [value]), f"{shown['type']}: {name}"


@each_blueprint
def test_links_fit_at_both_ends(file):
    inside = definition(read(file))
    leaving: dict[Any, set[int]] = {}
    arriving: dict[Any, set[int]] = {}
    for link in inside["links"]:
        leaving.setdefault((link["origin_id"], link["origin_slot"]), set()).add(link["id"])
        arriving.setdefault((link["target_id"], link["target_slot"]), set()).add(link["id"])
    ends = {INPUTS: ([], inside["inputs"]), OUTPUTS: (inside["outputs"], [])}
    nodes = {one["id"]: (one["inputs"], one["outputs"]) for one in inside["nodes"]}
    for name, (into, out) in {**nodes, **ends}.items():
        for n, slot in enumerate(out):
            links = slot["linkIds"] if name == INPUTS else slot["links"] or []
            assert set(links) == leaving.pop((name, n), set())
        for n, slot in enumerate(into):
            links = slot["linkIds"] if name == OUTPUTS else {slot["link"]} - {None}
            assert set(links) == arriving.pop((name, n), set())
    assert (leaving, arriving) == ({}, {}), "a link to a slot that is not there"


@each_blueprint
def test_one_node_stands_for_the_whole(file):
    whole = read(file)
    inside = definition(whole)
    (outside,) = whole["nodes"]
    assert outside["type"] == inside["id"]
    for end in ("inputs", "outputs"):
        assert [(slot["name"], slot["type"]) for slot in outside[end]] == [
            (slot["name"], slot["type"]) for slot in inside[end]
        ]
    assert outside["id"] not in {shown["id"] for shown in inside["nodes"]}
    assert not outside["widgets_values"], "the insides say what widgets begin with"


# --- the server -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def offered(server) -> dict[str, dict[str, Any]]:
    """What the server says of our blueprints, by name, each with its id."""
    try:
        answer = server.get("/api/global_subgraphs")
    except aiohttp.ClientResponseError as error:
        assert error.status == 404
        pytest.skip("this ComfyUI hands out no blueprints of packs")
    ours = f"custom_nodes.{PACK}"
    return {
        entry["name"]: {"id": name, **entry}
        for name, entry in answer.items()
        if entry["info"]["node_pack"] == ours
    }


def test_the_server_hands_them_out(server, offered):
    assert sorted(offered) == [file.stem for file in FILES] == sorted(SETTINGS)
    for file in FILES:
        assert offered[file.stem]["source"] == "custom_node"
        handed = server.get(f"/api/global_subgraphs/{offered[file.stem]['id']}")
        assert json.loads(handed["data"]) == read(file)


# --- what they make -------------------------------------------------------------------------------


def flatten(inside: dict[str, Any], known: dict[str, Any], outside: dict[str, Any]) -> Prompt:
    """The nodes of a subgraph in API format, fed from outside: a link or a value for each input."""
    sources = {link["id"]: (link["origin_id"], link["origin_slot"]) for link in inside["links"]}
    prompt = {}
    for shown in inside["nodes"]:
        inputs = widget_values(shown, known[shown["type"]])
        for slot in shown["inputs"]:
            if slot["link"] is not None:
                source, n = sources[slot["link"]]
                if source != INPUTS:
                    inputs[slot["name"]] = [str(source), n]
                elif (entry := inside["inputs"][n]["name"]) in outside:
                    inputs[slot["name"]] = outside[entry]
        prompt[str(shown["id"])] = node(shown["type"], **inputs)
    return prompt


def show(inside: dict[str, Any]) -> Prompt:
    """A node for each output of the subgraph that shows it, called by the output's name."""
    sources = {
        link["id"]: [str(link["origin_id"]), link["origin_slot"]] for link in inside["links"]
    }
    shown = {}
    for out in inside["outputs"]:
        source, name = sources[out["linkIds"][0]], out["name"]
        if out["type"] == "STRING":
            shown[name] = node("PreviewAny", source=source)
            continue
        if out["type"] == "MASK":
            shown[f"{name} drawn"] = node("MaskToImage", mask=source)
            source = [f"{name} drawn", 0]
        shown[name] = node("PreviewImage", images=source)
    return shown


def made(server, outputs: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """What the nodes show that are connected to the outputs: texts or pictures."""
    return {
        name: outputs[n].get("text") or [server.image(one) for one in outputs[n]["images"]]
        for name, n in ids.items()
    }


def check(name: str, result: dict[str, Any], picture: np.ndarray) -> None:
    if name == "words_to_masks":
        assert list(result["names"]) == WORDS.split(", ")
        masks = np.stack(result["masks"])
        assert masks.shape == (3, *picture.shape)
        assert set(np.unique(masks)) == {0, 255}
        (overlay,) = result["overlay"]
        assert overlay.shape[1] == picture.shape[1]
        return
    (after,), (mask,) = result["image"], result["mask"]
    inside = mask[..., 0] > 0
    assert after.shape == picture.shape
    assert 0.05 < inside.mean() < 0.95
    assert (after[~inside] == picture[~inside]).all(), "beyond the mask nothing changes"
    assert (after[inside] != picture[inside]).mean() > 0.5


def fed(inside: dict[str, Any], known: dict[str, Any], name: str) -> Prompt:
    """A subgraph in API format with the demo model, the picture and settings at its inputs."""
    outside = {
        **{end: ["demo", slot] for slot, end in enumerate(("model", "clip", "vae"))},
        "image": ["picture", 0],
        **SETTINGS[name],
    }
    return {
        "demo": node("ConceptAttentionDemoModel"),
        "picture": node("LoadImage", image="blueprint.png"),
        **flatten(inside, known, outside),
        **show(inside),
    }


@each_blueprint
def test_it_does_what_it_says(server, known, picture, file):
    inside = definition(read(file))
    result = server.queue(fed(inside, known, file.stem))
    names = {out["name"]: out["name"] for out in inside["outputs"]}
    check(file.stem, made(server, result.outputs, names), picture)


def test_beyond_the_mask_the_latent_is_the_very_same(server, known, picture):
    name = "change_only_this"
    prompt = fed(definition(read(ROOT / "subgraphs" / f"{name}.json")), known, name)
    ids = {one["class_type"]: n for n, one in prompt.items()}
    prompt["first"] = saved([ids["VAEEncode"], 0])
    prompt["second"] = saved([ids["LatentCompositeMasked"], 0])
    result = server.queue(prompt)
    (mask,) = made(server, result.outputs, {"mask": "mask"})["mask"]
    first, second = (latent(server, result, one) for one in ("first", "second"))
    height, width = first.shape[-2:]
    small = cv2.resize(mask[..., 0], (width, height), interpolation=cv2.INTER_LINEAR)
    rest = cv2.erode(np.uint8(small == 0), np.ones((3, 3))) > 0  # whatever resizes masks there
    assert 0.05 < rest.mean() < 0.95
    assert (second[..., rest] == first[..., rest]).all()
    assert (second != first).any()


# --- the page -------------------------------------------------------------------------------------

WHOLE = "app.graph.nodes.find(node => node.isSubgraphNode?.())"
WIRE = """([settings, starts]) => {
    const whole = WHOLE;
    const add = kind => {
        const node = LiteGraph.createNode(kind);
        app.graph.add(node);
        return node;
    };
    const set = (node, name, value) => {
        node.widgets.find(widget => widget.name === name).value = value;
    };
    const demo = add("ConceptAttentionDemoModel");
    ["model", "clip", "vae"].forEach((name, slot) => demo.connect(slot, whole, name));
    const picture = add("LoadImage");
    set(picture, "image", "blueprint.png");
    picture.connect(0, whole, "image");
    for (const [name, value] of Object.entries(settings)) set(whole, name, value);
    const ids = {};
    whole.outputs.forEach((out, slot) => {
        let shown = add(starts[out.type]);
        whole.connect(slot, shown, 0);
        if (out.type === "MASK") {
            const drawn = shown;
            shown = add("PreviewImage");
            drawn.connect(0, shown, 0);
        }
        ids[out.name] = String(shown.id);
    });
    return ids;
}""".replace("WHOLE", WHOLE)


def place(page, name: str) -> None:
    """Search for a blueprint and put it onto an empty canvas."""
    page.evaluate("app.graph.clear()")
    command(page, "Workspace.SearchBox.Toggle")
    page.keyboard.type(name)
    page.get_by_text(name).first.wait_for()
    page.keyboard.press("Enter")
    page.wait_for_function(WHOLE)
    page.mouse.click(800, 500)


@each_blueprint
def test_a_placed_blueprint_runs(server, offered, picture, page, file):
    place(page, file.stem)
    assert page.evaluate(f"{WHOLE}.title") == file.stem, "the page calls it as its file"
    ids = page.evaluate(WIRE, [SETTINGS[file.stem], STARTS])
    check(file.stem, made(server, run(page, server), ids), picture)


@each_blueprint
def test_a_dropped_blueprint_runs(server, picture, page, file):
    drop(page, file)
    ids = page.evaluate(WIRE, [SETTINGS[file.stem], STARTS])
    check(file.stem, made(server, run(page, server), ids), picture)
