"""Remake the pictures of the README and of ComfyUI's template browser.

    python -m tools.images results    docs/images/first_masks.jpg
    python -m tools.images graphs     docs/images/*_graph.jpg and the workflows' pictures;
                                          followed by names, only those of these workflows
    python -m tools.images brand      docs/images/icon.png, banner.png

`results` paints what workflows/first_masks.json paints, with demo/model. It runs in the
environment that `python run.py demo` makes.

`graphs` takes pictures of the workflows on ComfyUI's page, those of the demo model after a run;
those for Flux show what the demo model made of the same idea. It runs in ComfyUI's Python with
playwright at hand; COMFYUI_PATH names ComfyUI, COMFYUI_BROWSER a Chromium.
"""

import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows"
IMAGES = ROOT / "docs" / "images"

PAPER, INK = (250, 250, 248), (32, 33, 36)
GAP = 16
THUMBNAIL = 640
BRAND_SEED = 30
WIDEST = 1600


def save(picture: Image.Image, file: Path, most: int) -> None:
    """As JPEG of at most so many bytes."""
    for quality in (92, 88, 84, 80, 75, 70, 60):
        data = io.BytesIO()
        picture.convert("RGB").save(data, "JPEG", quality=quality, optimize=True, progressive=True)
        if data.tell() <= most:
            break
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.getvalue())
    print(f"{file.name}: {picture.size}, {data.tell() // 1000} kB")


# --- results --------------------------------------------------------------------------------------


def results() -> None:
    prompt, picture, maps = paint()
    small = Image.fromarray(picture)

    large = small.resize((512, 512), Image.Resampling.LANCZOS)
    regions = maps.overlay(large)
    save(panorama(large, prompt, regions, maps.heat_maps()),
         IMAGES / "first_masks.jpg", 300_000)  # fmt: skip


def paint() -> tuple[str, Any, Any]:
    """The prompt, the picture (h w rgb) and the maps of the workflow first_masks."""
    import numpy as np
    import torch
    from diffusers import FluxPipeline

    from conceptattention_core.concepts import parse
    from conceptattention_core.hosts.diffusers.families import family_of
    from conceptattention_core.hosts.diffusers.patch import record
    from conceptattention_core.maps import read_maps
    from conceptattention_core.recording import RecordSpec

    nodes = json.loads((WORKFLOWS / "api" / "first_masks.json").read_text(encoding="utf-8"))
    inputs = {node["class_type"]: node["inputs"] for node in nodes.values()}
    sampler, empty = inputs["KSampler"], inputs["EmptySD3LatentImage"]
    prompt, negative = (
        nodes[sampler[name][0]]["inputs"]["text"] for name in ("positive", "negative")
    )
    pipe: Any = FluxPipeline.from_pretrained(ROOT / "demo" / "model", torch_dtype=torch.float32)
    length = family_of(pipe).text_length(pipe)
    spec = RecordSpec(parse(inputs["ConceptAttentionRecord"]["concepts"]))
    with record(pipe, spec, max_sequence_length=length) as listener:
        (image,) = pipe(
            prompt,
            negative_prompt=negative,
            true_cfg_scale=sampler["cfg"],
            guidance_scale=0.0,
            num_inference_steps=sampler["steps"],
            height=empty["height"],
            width=empty["width"],
            generator=torch.Generator().manual_seed(sampler["seed"]),  # KSampler's noise
            max_sequence_length=length,
        ).images
    return prompt, np.asarray(image), read_maps(listener.recording())


def panorama(
    picture: Image.Image, prompt: str, regions: Image.Image, heats: dict[str, Image.Image]
) -> Image.Image:
    """The picture over its prompt, the regions over their legend, and one heat map per word."""
    columns = 2
    rows = -(-len(heats) // columns)
    line = 22
    edge = (regions.height - (rows - 1) * GAP) // rows - line
    width = picture.width + regions.width + columns * edge + (3 + columns) * GAP
    sheet = Image.new("RGB", (width, regions.height + 2 * GAP), PAPER)
    sheet.paste(picture, (GAP, GAP))
    write(sheet, prompt, GAP, 2 * GAP + picture.height - 4, picture.width)
    sheet.paste(regions, (2 * GAP + picture.width, GAP))
    left = 3 * GAP + picture.width + regions.width
    for i, (name, heat) in enumerate(heats.items()):
        x, y = left + i % columns * (edge + GAP), GAP + i // columns * (line + edge + GAP)
        write(sheet, name, x, y, edge)
        sheet.paste(heat.resize((edge, edge), Image.Resampling.LANCZOS), (x, y + line))
    assert sheet.width <= WIDEST
    return sheet


def write(sheet: Image.Image, text: str, x: int, y: int, width: int) -> None:
    """Text in as many lines as it takes."""
    from conceptattention_core.output.fonts import find_font

    letters = find_font(text, 16)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if letters.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    ImageDraw.Draw(sheet).multiline_text((x, y), "\n".join(lines), INK, letters, spacing=5)


# --- graphs ---------------------------------------------------------------------------------------

SHOWN = {"first_masks": 1600, "change_only_this": 1200, "look_inside": 1600}
"""The graphs whose pictures documents show, and their width in pixels."""
QUIET = {"Comfy__TutorialCompleted": True, "Comfy__Minimap__Visible": False}
FRAME = """() => {
    const edges = app.graph.nodes.map(({pos: [x, y], size: [w, h]}) => [x, y - 30, x + w, y + h]);
    const margin = 20;
    const [x, y] = [0, 1].map(i => Math.min(...edges.map(edge => edge[i])) - margin);
    const [right, bottom] = [2, 3].map(i => Math.max(...edges.map(edge => edge[i])) + margin);
    const {scale, offset} = app.canvas.ds;
    const canvas = document.querySelector("#graph-canvas").getBoundingClientRect();
    return {
        x: canvas.x + (x + offset[0]) * scale, y: canvas.y + (y + offset[1]) * scale,
        width: (right - x) * scale, height: (bottom - y) * scale,
    };
}"""
DONE = """() => {
    app.extensionManager.command.execute("Comfy.Canvas.FitView");  // pictures load when in view
    const showing = ["PreviewImage", "SaveImage", "MaskPreview", "ConceptAttentionOverlay"];
    return app.graph.nodes.filter(node => showing.includes(node.type))
        .every(node => node.imgs?.length && node.imgs.every(one => one.complete));
}"""
# As if the nodes had run.
LEND = """outputs => {
    for (const [node, output] of Object.entries(outputs)) {
        const detail = {node, display_node: node, output, prompt_id: "lent"};
        app.api.dispatchCustomEvent("executed", detail);
    }
}"""


def graphs(*names: str) -> None:
    from playwright.sync_api import sync_playwright

    from tests.comfyui.browser import drop, run
    from tests.comfyui.server import Server

    wanted = [
        file for file in sorted(WORKFLOWS.glob("*.json")) if file.stem in (names or [file.stem])
    ]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as engine:
        server = Server(Path(os.environ["COMFYUI_PATH"]), Path(folder) / "base")
        try:
            server.settings(**QUIET)
            pretend_models(Path(folder) / "base" / "models")
            browser = engine.chromium.launch(
                executable_path=os.environ["COMFYUI_BROWSER"], args=["--headless", "--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 2880, "height": 1500})
            page.set_default_timeout(180_000)
            page.goto(server.url)
            page.wait_for_function("window.app && window.app.vueAppReady")
            made: dict[str, dict[str, Any]] = {}
            for demo in dict.fromkeys(map(twin, wanted)):
                drop(page, demo)
                made[demo.stem] = run(page, server)
                page.wait_for_function(DONE, polling=1000)
                if demo in wanted:
                    take(page, demo)
            for file in wanted:
                demo = twin(file)
                if demo == file:
                    continue
                outputs = lend(made[demo.stem], demo, file)
                if file.stem == "photo_to_masks":
                    show_as_photo(server, made[demo.stem])
                drop(page, file)
                page.evaluate(LEND, outputs)
                page.wait_for_function(DONE, polling=1000)
                take(page, file)
            browser.close()
        finally:
            server.stop()


def twin(file: Path) -> Path:
    """The workflow for the demo model with the same idea."""
    name = file.stem.removesuffix("_flux_dev")
    return WORKFLOWS / f"{'picture_to_masks_demo' if name == 'photo_to_masks' else name}.json"


def lend(outputs: dict[str, Any], demo: Path, file: Path) -> dict[str, Any]:
    """What the nodes of `demo` showed, for the nodes of the same kinds of `file`, by their ids."""

    def of_kind(workflow: Path) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for node in json.loads(workflow.read_text(encoding="utf-8"))["nodes"]:
            kinds.setdefault(node["type"], []).append(str(node["id"]))
        return kinds

    theirs, ours = of_kind(demo), of_kind(file)
    pairs = ((a, b) for kind in ours for a, b in zip(theirs.get(kind, []), ours[kind]))
    return {b: outputs[a] for a, b in pairs if a in outputs}


def show_as_photo(server: Any, outputs: dict[str, Any]) -> None:
    """What the demo model painted becomes the picture that LoadImage shows."""
    (painted,) = (
        output["images"][0]
        for output in outputs.values()
        if output["images"][0]["type"] == "output"
    )
    server.upload(server.image(painted), "example.png")


def take(page: Any, file: Path) -> None:
    """The picture of the graph on the page, for the template browser and for documents."""
    from tests.comfyui.browser import command

    page.wait_for_timeout(3000)
    command(page, "Comfy.Canvas.FitView")
    save(shot(page, THUMBNAIL), file.with_suffix(".jpg"), 100_000)
    if file.stem in SHOWN:
        save(shot(page, SHOWN[file.stem]), IMAGES / f"{file.stem}_graph.jpg", 300_000)


def pretend_models(models: Path) -> None:
    """Empty files under the names that workflows load, or their nodes are framed in red."""
    for file in WORKFLOWS.glob("*.json"):
        for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]:
            for model in node["properties"].get("models", []):
                (models / model["directory"]).mkdir(parents=True, exist_ok=True)
                (models / model["directory"] / model["name"]).touch()


def shot(page: Any, width: int) -> Image.Image:
    """The graph, without the page around it."""
    page.wait_for_timeout(3000)  # the view glides to its place, tool bars settle
    page.mouse.move(5, 700)
    data = page.screenshot(clip=page.evaluate(FRAME))
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    height = round(picture.height * width / picture.width)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


# --- icon and banner ------------------------------------------------------------------------------


def brand() -> None:
    """A scene of the demo's own, half of it in the colours of its words."""
    import numpy as np

    from conceptattention_core.output.render import concept_colour
    from demo.scenes import scene

    drawn = scene(BRAND_SEED, 512)
    flat = np.zeros_like(drawn.image)
    for index, mask in enumerate(drawn.masks.values()):
        flat[mask] = concept_colour(index)
    down, right = np.mgrid[0:512, 0:512]
    both = np.where((right + down / 2 > 384)[..., None], flat, drawn.image)
    icon = Image.fromarray(both)
    IMAGES.mkdir(parents=True, exist_ok=True)
    icon.resize((400, 400), Image.Resampling.LANCZOS).save(IMAGES / "icon.png", optimize=True)
    banner = Image.new("RGB", (1260, 540), PAPER)
    banner.paste(icon.resize((460, 460), Image.Resampling.LANCZOS), (40, 40))
    from conceptattention_core.output.fonts import find_font

    pen = ImageDraw.Draw(banner)
    pen.text((550, 170), "ConceptAttention", INK, find_font("C", 76))
    pen.text((552, 280), "Words in, one mask each,", INK, find_font("C", 40))
    pen.text((552, 332), "from the run that paints the picture.", INK, find_font("C", 40))
    banner.save(IMAGES / "banner.png", optimize=True)


if __name__ == "__main__":
    commands = {"results": results, "graphs": graphs, "brand": brand}
    name, *more = sys.argv[1:] or [""]
    if name not in commands or (more and name != "graphs"):
        sys.exit(__doc__)
    commands[name](*more)
