"""What the page shows of a workflow, on the classic canvas and in Nodes 2.0."""

import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..comfyui.browser import (
    PICTURES,
    command,
    drop,
    opened,
    press_run,
    run,
    sizes_of_pictures,
    wait_for_pictures,
)
from ..comfyui.graphs import MASKING, WORKFLOWS, masks, node
from ..comfyui.server import Prompt, Server
from ..core.explorer_page.common import at, bars, close, inside
from ..workflows.common import FILES, pretend_models, put_example, twin
from .common import SHOWN_BY, choose, listen, on_both

FIRST = WORKFLOWS / "first_masks.json"
LOOK = WORKFLOWS / "look_inside.json"
SHOWN = {
    "The picture": 1,
    "Concept Overlay: regions": 1,
    "Concept Overlay: heat maps": 1,
    "One mask per word": 6,
}
RED = """app.graph.nodes
    .filter(node => node.has_errors || !(node.type in LiteGraph.registered_node_types))
    .map(node => node.type)"""
SHOWING = f"""() => {{
    const pictures = {PICTURES};
    app.extensionManager.command.execute("Comfy.Canvas.FitView");
    const kinds = ["PreviewImage", "SaveImage", "MaskPreview", "ConceptAttentionOverlay"];
    const showing = app.graph.nodes.filter(node => kinds.includes(node.type)).map(pictures);
    return showing.length &&
        showing.every(shown => shown.length && shown.every(one => one.naturalWidth));
}}"""
HURRY = """() => {
    const set = (kind, name, value) => app.graph.nodes.filter(node => node.type === kind)
        .forEach(node => { node.widgets.find(widget => widget.name === name).value = value; });
    set("KSampler", "steps", 2);
    set("ConceptAttentionGate", "coverage", 0);
}"""
SENT = "app.graphToPrompt().then(prompt => prompt.output)"
# In Nodes 2.0: what the controls of a node say, as text.
CONTROLS = """name => [...document.querySelectorAll(
    `[data-node-id="${name}"] [data-testid="node-widget"]`
)].map(row => row.querySelector("textarea, input, [role=combobox], [role=switch]"))
    .map(one => one.ariaChecked ?? (one.value || one.textContent))"""
EXPLORER = "app.graph.nodes.find(node => node.type === 'ConceptAttentionExplorer')"
FRAME = "iframe[title='Concept Explorer']"


def graph_of(prompt: Prompt) -> dict[str, list[Any]]:
    """A prompt without what the page adds for people."""
    return {name: [node["class_type"], node["inputs"]] for name, node in prompt.items()}


def test_a_dropped_workflow_shows_its_picture_and_masks(canvas):
    drop(canvas, FIRST)
    assert canvas.evaluate(RED) == []
    api = json.loads((FIRST.parent / "api" / FIRST.name).read_text(encoding="utf-8"))
    assert graph_of(canvas.evaluate(SENT)) == graph_of(api)

    press_run(canvas)
    wait_for_pictures(canvas, SHOWN)
    assert sizes_of_pictures(canvas, "One mask per word") == [[256, 256]] * 6
    assert canvas.evaluate(RED) == []


@pytest.mark.parametrize(("server", "frontend"), SHOWN_BY[1:], indirect=True)
def test_controls_of_nodes_show_the_values_of_the_workflow(canvas):
    """The classic canvas draws what is sent; here it is elements of the page."""
    drop(canvas, FIRST)
    command(canvas, "Comfy.Canvas.FitView")
    for _ in range(3):  # Record Concepts, Concept Maps, Concept Masks
        canvas.get_by_text("Show advanced inputs").first.dispatch_event("click")
    canvas.get_by_text("Hide advanced inputs").nth(2).wait_for()
    seen = 0
    for name, one in canvas.evaluate(SENT).items():
        if one["class_type"].startswith("ConceptAttention"):
            values = [value for value in one["inputs"].values() if not isinstance(value, list)]
            controls = canvas.evaluate(CONTROLS, name)
            assert len(controls) == len(values), one
            assert all(map(says, controls, values)), (controls, values)
            seen += len(values)
    assert seen > 20


def says(control: str, value: Any) -> bool:
    """Whether this is how a control writes a value."""
    if isinstance(value, bool):
        return control == str(value).lower()
    return control == value if isinstance(value, str) else float(control) == value


@pytest.fixture(scope="module")
def gallery(
    request: pytest.FixtureRequest, server: Server, _browser: Any
) -> Iterator[tuple[Any, list[str]]]:
    """One page for all workflows, and what it complains of."""
    pretend_models(server)
    put_example(server)
    choose(server, request.param)
    with opened(server, _browser) as page:
        yield page, listen(page, request.param)
    choose(server, "classic")


@pytest.mark.parametrize(("server", "gallery"), SHOWN_BY, indirect=True)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_workflow_of_the_gallery_can_be_dropped_and_run(gallery, server, file):
    """Those for Flux are not run; the others with few steps, which a gate lets through."""
    page, complaints = gallery
    complaints.clear()
    drop(page, file)
    assert page.evaluate(RED) == []
    assert graph_of(page.evaluate(SENT)) == graph_of(twin(file))
    if "ConceptAttentionDemoModel" in file.read_text(encoding="utf-8") and runs_here(file):
        page.evaluate(HURRY)
        assert run(page, server)
        page.wait_for_function(SHOWING, polling=500)
    assert page.evaluate(RED) == []
    assert complaints == []


def runs_here(file: Path) -> bool:
    return file.stem != "layers_to_file" or importlib.util.find_spec("psd_tools") is not None


def explorer(page: Any) -> Any:
    """The page on the explorer's node, as playwright's Frame; the node is in the middle."""
    page.wait_for_function(
        f"""() => {{
            app.canvas.ds.scale = 1;
            app.canvas.centerOnNode({EXPLORER});
            app.canvas.setDirty(true, true);
            const frame = document.querySelector("{FRAME}");
            return frame?.srcdoc && frame.getBoundingClientRect().height > 300;
        }}""",
        polling=500,
    )
    frame = page.query_selector(FRAME).content_frame()
    frame.locator("#concepts li").first.wait_for(state="attached")
    return frame


def masks_of_run(server: Server, prompt: Prompt, threshold: str) -> dict[str, np.ndarray]:
    """The masks h w of all concepts that the explorer shows, by name: from the bare maps."""
    (shown,) = (it for it in prompt.values() if it["class_type"] == "ConceptAttentionExplorer")
    (record,) = (it for it in prompt.values() if it["class_type"] == "ConceptAttentionRecord")
    words = record["inputs"]["concepts"].splitlines()
    how = {**MASKING, "threshold": threshold, "keep_absent": True, "edges": False}
    wires = {name: shown["inputs"][name] for name in ("maps", "image")}
    added = {}
    for word in words:
        pick = node("ConceptAttentionPick", **wires, name=word, invert=False, **how)
        as_image = node("MaskToImage", mask=[f"pick {word}", 0])
        saved = node("PreviewImage", images=[f"image {word}", 0])
        added |= {f"pick {word}": pick, f"image {word}": as_image, f"saved {word}": saved}
    result = server.queue({**prompt, **added})
    return {word: masks(server, result, f"saved {word}")[0] for word in words}


def taken(page: Any, frame: Any) -> np.ndarray:
    """The mask h w that the explorer's button gives."""
    with page.expect_download() as caught:
        frame.get_by_role("button", name="Download mask").click()
    return np.asarray(Image.open(io.BytesIO(Path(caught.value.path()).read_bytes())))


@on_both
def test_the_explorer_on_its_node_says_what_the_run_found(canvas, server):
    drop(canvas, LOOK)
    press_run(canvas)
    frame = explorer(canvas)
    found = masks_of_run(server, canvas.evaluate(SENT), "competition")
    names, winners = list(found), np.stack(list(found.values())).argmax(0)
    assert (np.stack(list(found.values())).sum(0) == 255).all()  # one winner everywhere

    frame.locator("#concepts li").nth(len(names) - 1).wait_for(state="attached")
    large = [c for c in range(len(names)) if (winners == c).mean() > 0.03]
    assert len(large) > 2
    for c in large:
        y, x = inside(winners == c)
        canvas.mouse.move(*at(frame, y, x, winners.shape))
        values = bars(frame)
        assert list(values) == names
        assert sum(values.values()) == pytest.approx(1, abs=0.02)
        assert max(values, key=values.__getitem__) == names[c]
        assert frame.locator("#tip .name").first.text_content() == names[c]
        canvas.mouse.click(*at(frame, y, x, winners.shape))
        frame.locator(f"[name=concept][value='{c}']:checked").wait_for(state="attached")
        assert close(taken(canvas, frame), winners == c, 0.01)

    c = names.index("water")
    frame.get_by_role("radio", name="water").check(force=True)
    frame.get_by_label("Threshold").select_option("mean")
    above = masks_of_run(server, canvas.evaluate(SENT), "mean")["water"]
    assert close(taken(canvas, frame), above > 127, 0.01)
    assert canvas.locator(FRAME).get_attribute("sandbox") == "allow-scripts allow-downloads"


@on_both
def test_the_explorer_keeps_the_choice_until_results_differ(canvas):
    drop(canvas, LOOK)
    press_run(canvas)
    frame = explorer(canvas)
    frame.get_by_role("radio", name="sky").check(force=True)
    with canvas.expect_response(lambda answer: "explorer" in answer.url):
        press_run(canvas)
    canvas.wait_for_timeout(500)
    assert explorer(canvas).locator("[name=concept]:checked").input_value() == "2"

    before = canvas.locator(FRAME).get_attribute("srcdoc")
    canvas.evaluate("app.graph.nodes.find(node => node.type === 'KSampler').widgets[0].value = 8")
    press_run(canvas)
    canvas.wait_for_function(
        "([frame, before]) => document.querySelector(frame).srcdoc !== before", arg=[FRAME, before]
    )
    assert explorer(canvas).locator("[name=concept]:checked").count() == 0


@on_both
def test_the_explorer_comes_back_after_undo_and_from_another_workflow(canvas, tmp_path):
    drop(canvas, LOOK)
    press_run(canvas)
    explorer(canvas)
    canvas.evaluate(f"{EXPLORER}.title = 'mine'")
    canvas.mouse.click(300, 900)  # ComfyUI notices changes when a button is let go
    command(canvas, "Comfy.Undo")
    canvas.wait_for_function(f"{EXPLORER}?.title !== 'mine'")
    explorer(canvas)
    saved = canvas.evaluate("app.graph.serialize()")

    command(canvas, "Comfy.NewBlankWorkflow")
    canvas.wait_for_function("app.graph.nodes.length === 0")
    assert canvas.locator(FRAME).count() == 0
    command(canvas, "Workspace.PreviousOpenedWorkflow")
    explorer(canvas)

    command(canvas, "Comfy.NewBlankWorkflow")
    canvas.wait_for_function("app.graph.nodes.length === 0")
    (tmp_path / "saved.json").write_text(json.dumps(saved), encoding="utf-8")
    drop(canvas, tmp_path / "saved.json")
    one = f"[...{EXPLORER}.size, {EXPLORER}.widgets.map(widget => widget.value)]"
    (wanted,) = (it for it in saved["nodes"] if it["type"] == "ConceptAttentionExplorer")
    assert canvas.evaluate(one) == [*wanted["size"], ["ConceptAttention/explorer"]]
    press_run(canvas)
    explorer(canvas)
    assert canvas.evaluate(f"[...{EXPLORER}.size]") == wanted["size"]


@on_both
def test_the_explorer_stays_within_its_node_and_can_be_read(canvas):
    """A new node grows for it; a person makes it as small as the frontend lets her."""
    drop(canvas, LOOK)
    canvas.evaluate(f"{EXPLORER}.setSize([240, 110])")
    press_run(canvas)
    explorer(canvas)
    frame, whole = boxes(canvas)
    assert whole["width"] >= 560 and whole["height"] >= 720
    assert frame["width"] > 520 and frame["height"] > 560

    corner = whole["x"] + whole["width"] - 4, whole["y"] + whole["height"] - 4
    canvas.mouse.move(corner[0] - 20, corner[1] + 30)
    canvas.mouse.move(*corner, steps=4)
    canvas.wait_for_timeout(500)
    canvas.mouse.down()
    canvas.mouse.move(corner[0] + 3, corner[1] + 3)  # what a person's hand does first
    canvas.wait_for_timeout(200)
    canvas.mouse.move(corner[0] - 200, corner[1] - 600, steps=10)  # over the frame
    canvas.mouse.up()
    canvas.wait_for_function(f"{EXPLORER}.size[1] < 700")
    explorer(canvas)
    smaller, whole = boxes(canvas)
    assert smaller["width"] < frame["width"] - 150
    assert 480 <= smaller["height"] < frame["height"]


def boxes(page: Any) -> list[dict[str, float]]:
    """Where the frame and its node are on the screen, and that the one lies in the other."""
    page.wait_for_timeout(300)  # it follows its node
    frame, whole = page.evaluate(
        f"""() => {{
            const node = {EXPLORER}, canvas = app.canvas.canvas.getBoundingClientRect();
            const [x, y] = [0, 1].map(axis => node.pos[axis] + app.canvas.ds.offset[axis]);
            return [
                document.querySelector("{FRAME}").getBoundingClientRect().toJSON(),
                {{x: canvas.x + x, y: canvas.y + y, width: node.size[0], height: node.size[1]}},
            ];
        }}"""
    )
    for start, length in (("x", "width"), ("y", "height")):
        assert whole[start] <= frame[start]
        assert frame[start] + frame[length] <= whole[start] + whole[length]
    return [frame, whole]
