"""The pack as its users meet it: on ComfyUI's page, in a browser."""

import json

import pytest

from .browser import command, drop, open_help, press_run, wait_for_nodes, wait_for_pictures
from .graphs import WORKFLOWS

FIRST = WORKFLOWS / "first_masks.json"
SHOWN = {
    "The picture": 1,
    "Concept Overlay: regions": 1,
    "Concept Overlay: heat maps": 1,
    "One mask per word": 6,
}
RED = """app.graph.nodes
    .filter(node => node.has_errors || !(node.type in LiteGraph.registered_node_types))
    .map(node => node.type)"""
SHOWING = """() => {
    app.extensionManager.command.execute("Comfy.Canvas.FitView");
    return app.graph.nodes.filter(node => ["PreviewImage", "SaveImage"].includes(node.type))
        .every(node => node.imgs?.length && node.imgs.every(one => one.complete));
}"""
SIZES = """app.graph.nodes.find(node => node.title === "One mask per word")
    .imgs.map(one => [one.naturalWidth, one.naturalHeight])"""


def graph_of(prompt: dict) -> dict:
    """A prompt without what the page adds for people."""
    return {name: [node["class_type"], node["inputs"]] for name, node in prompt.items()}


def test_a_dropped_workflow_shows_its_picture_and_masks(page):
    drop(page, FIRST)
    assert page.evaluate(RED) == []
    sent = page.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
    api = json.loads((FIRST.parent / "api" / FIRST.name).read_text(encoding="utf-8"))
    assert graph_of(sent) == graph_of(api)

    press_run(page)
    wait_for_pictures(page, SHOWN)
    assert page.evaluate(SIZES) == [[256, 256]] * 6
    assert page.evaluate(RED) == []


def test_the_template_browser_opens_it_and_a_node_explains_itself(page):
    command(page, "Comfy.BrowseTemplates")
    page.get_by_text("conceptattention", exact=True).last.click()
    template = page.get_by_test_id("template-workflow-first_masks")
    template.wait_for()
    thumbnail = template.locator("img").first
    # Ours; the page has a drawing of another size for templates without one.
    page.wait_for_function("image => image.naturalWidth === 640", arg=thumbnail.element_handle())
    thumbnail.click()
    wait_for_nodes(page, FIRST)

    open_help(page, "ConceptAttentionRecord")
    help_page = page.get_by_text("Put it between the model loader and the sampler")
    help_page.wait_for()
    assert help_page.is_visible()


def test_every_node_has_a_help_page(server):
    ours = {
        name: info["display_name"]
        for name, info in server.object_info().items()
        if info["python_module"] == "custom_nodes.conceptattention"
    }
    assert len(ours) >= 6
    for name, title in ours.items():
        text = server.get(f"/extensions/conceptattention/docs/{name}.md").decode()
        assert text.startswith(f"# {title}\n")
        assert len(text) > 200


@pytest.mark.parametrize("name", ["change_only_this", "layers_to_file", "seed_picker"])
def test_a_workflow_of_the_gallery_runs_and_shows_its_pictures(page, name):
    drop(page, WORKFLOWS / f"{name}.json")
    if name == "seed_picker":  # that a picture passes is not for this test to say
        page.evaluate(
            """app.graph.nodes.find(node => node.type === "ConceptAttentionGate")
                .widgets.find(widget => widget.name === "coverage").value = 0"""
        )
    assert page.evaluate(RED) == []
    press_run(page)
    page.wait_for_function(SHOWING, timeout=120_000, polling=1000)
    assert page.evaluate(RED) == []


def test_the_explorer_lives_on_its_node(page):
    """Point at the picture, click, and a mask is taken; the frame has an origin of its own."""
    drop(page, WORKFLOWS / "look_inside.json")
    press_run(page)
    page.wait_for_function(
        """() => {
            const node = app.graph.nodes.find(node => node.type === "ConceptAttentionExplorer");
            app.canvas.ds.scale = 1;
            app.canvas.centerOnNode(node);
            app.canvas.setDirty(true, true);
            const frame = document.querySelector("iframe[title='Concept Explorer']");
            return frame?.srcdoc && frame.getBoundingClientRect().height > 300;
        }""",
        timeout=120_000,
        polling=1000,
    )
    frame = page.frame_locator("iframe[title='Concept Explorer']")
    picture = frame.get_by_role("application")
    picture.wait_for()
    picture.click(position={"x": 40, "y": 40})
    frame.get_by_text("% of the picture").first.wait_for()
    assert frame.get_by_role("button", name="Download mask").is_enabled()
    assert page.locator("iframe[title='Concept Explorer']").get_attribute("sandbox") == (
        "allow-scripts allow-downloads"
    )
