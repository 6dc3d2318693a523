"""Texts of nodes on ComfyUI's page: they stand on the node after the run, until it runs again."""

import json

from ..comfyui.browser import drop, run
from ..comfyui.graphs import WORKFLOWS
from .common import on_both

FIRST = WORKFLOWS / "first_masks.json"
TEXTS = """() => [...document.querySelectorAll(".conceptattention-text")]
    .filter(box => box.checkVisibility() && box.getBoundingClientRect().height > 10)
    .map(box => box.textContent)"""
WRITE = """words => {
    const record = app.graph.nodes.find(node => node.type === "ConceptAttentionRecord");
    record.widgets.find(widget => widget.name === "concepts").value = words;
    app.graph.nodes.find(node => node.type === "KSampler").widgets
        .find(widget => widget.name === "steps").value = 2;
}"""


@on_both
def test_a_notice_stays_on_its_node_after_the_run_and_goes_with_its_cause(canvas, server):
    drop(canvas, FIRST)
    canvas.evaluate(WRITE, "(balloon:1.3), sky")
    run(canvas, server)
    canvas.wait_for_function(f"({TEXTS})().length === 1")
    canvas.wait_for_timeout(1000)  # what the page itself takes away when a run ends is gone
    canvas.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    (text,) = canvas.evaluate(TEXTS)
    assert "balloon" in text and "1.3" in text
    saved = canvas.evaluate("JSON.stringify(app.graph.serialize())")
    (record,) = [one for one in json.loads(saved)["nodes"] if one["type"].endswith("Record")]
    assert text not in record["widgets_values"]

    canvas.evaluate(WRITE, "balloon, sky")
    run(canvas, server)
    canvas.wait_for_function(f"({TEXTS})().length === 0")
