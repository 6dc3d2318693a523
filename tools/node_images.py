"""Remake docs/images/nodes/*.jpg: each node as it looks on ComfyUI's page after a run.

    python tools/node_images.py [Record Maps ...]

It runs in ComfyUI's Python with playwright at hand; COMFYUI_PATH names ComfyUI, COMFYUI_BROWSER a
Chromium. The nodes are those of the gallery's workflows, run with the demo model.
"""

import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images" / "nodes"
WIDEST = 900  # pixels

WORKFLOWS = {
    "first_masks": ["DemoModel", "Record", "Maps", "Masks", "Overlay"],
    "picture_to_masks_demo": ["Locate"],
    "change_only_this": ["Pick"],
    "look_inside": ["Explorer", "Sheet", "Labels"],
    "seed_picker": ["Scores", "Gate"],
    "layers_to_file": ["CutOut", "Layers", "SaveLayers", "SaveMasks"],
    "regions_that_find_themselves": ["Regions"],
}
BESIDE = ["Split", "Boxes"]
"""Nodes that no workflow has: they are put on an empty canvas."""

ROOM = 240  # pixels that a preview needs below the widgets
LOOK_AT = """([kind, room]) => {
    const node = app.graph.nodes.find(node => node.type === kind);
    const {ds} = app.canvas;
    node.pos = [20000 + 5000 * node.id, 20000];  // nothing lies there
    if (node.imgs?.length) {
        const [, least] = node.computeSize();
        if (node.size[1] < least + room) node.setSize([node.size[0], least + room]);
    }
    ds.scale = 1;
    ds.offset = [80 - node.pos[0], 120 - node.pos[1]];
    app.canvas.setDirty(true, true);
}"""
FRAME = """kind => {
    const node = app.graph.nodes.find(node => node.type === kind);
    const canvas = document.querySelector("#graph-canvas").getBoundingClientRect();
    const margin = 12;
    return {
        x: canvas.x + 80 - margin, y: canvas.y + 120 - 30 - margin,
        width: node.size[0] + 2 * margin, height: node.size[1] + 30 + 2 * margin,
    };
}"""
ALONE = """kind => {
    app.graph.clear();
    const node = LiteGraph.createNode(kind);
    [node.color, node.bgcolor] = ["#323", "#535"];  // as in the workflows
    app.graph.add(node);
}"""


def main(*asked: str) -> None:
    sys.path.insert(0, str(next((ROOT / "tests").rglob("browser.py")).parent))
    from browser import drop, opened, run
    from playwright.sync_api import sync_playwright
    from server import Server

    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as engine:
        server = Server(Path(os.environ["COMFYUI_PATH"]), Path(folder) / "base")
        browser = engine.chromium.launch(
            executable_path=os.environ["COMFYUI_BROWSER"], args=["--headless", "--no-sandbox"]
        )
        try:
            with opened(server, browser) as page:
                page.set_viewport_size({"width": 1600, "height": 1400})
                for workflow, all_kinds in WORKFLOWS.items():
                    kinds = [kind for kind in all_kinds if not asked or kind in asked]
                    if not kinds:
                        continue
                    drop(page, ROOT / "workflows" / f"{workflow}.json")
                    run(page, server)
                    for kind in kinds:
                        take(page, kind)
                for kind in (kind for kind in BESIDE if not asked or kind in asked):
                    page.evaluate(ALONE, f"ConceptAttention{kind}")
                    take(page, kind)
        finally:
            browser.close()
            server.stop()


def take(page: Any, kind: str) -> None:
    """The picture of the first node of a kind, as JPEG."""
    name = f"ConceptAttention{kind}"
    page.evaluate(LOOK_AT, [name, ROOM])
    page.wait_for_timeout(3000)  # pictures are loaded when their node is in view
    page.evaluate(LOOK_AT, [name, ROOM])
    page.mouse.move(5, 700)
    page.wait_for_timeout(1000)
    shot = Image.open(io.BytesIO(page.screenshot(clip=page.evaluate(FRAME, name)))).convert("RGB")
    shot.thumbnail((WIDEST, 2 * WIDEST), Image.Resampling.LANCZOS)
    shot.save(IMAGES / f"{name}.jpg", quality=84, optimize=True, progressive=True)
    print(f"{name}: {shot.size}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
