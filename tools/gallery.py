"""Remake workflows/*.json, the graphs for ComfyUI's page, and workflows/api/*.json, for scripts.

    python docs/make_workflows.py

It runs in ComfyUI's Python; COMFYUI_PATH names ComfyUI, whose nodes say which inputs they have.
A workflow is written once and made twice: for the demo model, and for Flux.1 dev with stock
loaders. Afterwards `docs/make_images.py graphs` takes their pictures.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows"

WIDTH, GAP, LINE = 330, 60, 24
TOP = 30  # of a node, above its first slot
COLOUR = {"color": "#323", "bgcolor": "#535"}  # of our own nodes
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
HUB = "https://huggingface.co/"
FILES = {  # the page offers to download what is missing
    "UNETLoader": [
        ("flux1-dev.safetensors", "Comfy-Org/flux1-dev/resolve/main/", "diffusion_models")
    ],
    "DualCLIPLoader": [
        (name, "comfyanonymous/flux_text_encoders/resolve/main/", "text_encoders")
        for name in ("clip_l.safetensors", "t5xxl_fp16.safetensors")
    ],
    "VAELoader": [
        (
            "ae.safetensors",
            "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/",
            "vae",
        )
    ],
}
STOCK = (
    "Needs the stock files: `flux1-dev.safetensors` in *diffusion_models*, `clip_l.safetensors` "
    "and `t5xxl_fp16.safetensors` (or fp8) in *text_encoders*, `ae.safetensors` in *vae*."
)

Info = dict[str, Any]
Output = tuple[str, int]


@dataclass
class Node:
    kind: str
    inputs: dict[str, Any]
    column: int
    title: str | None
    size: tuple[int, int] | None
    id: int
    files: list[tuple[str, str, str]] | None = None
    """What it loads: name, folder on HUB, folder of ComfyUI. None: see FILES."""

    def __getitem__(self, slot: int) -> Output:
        return str(self.id), slot


@dataclass
class Graph:
    """Nodes in columns, from left to right, each column from top to bottom."""

    known: Info
    nodes: list[Node] = field(default_factory=list)

    def add(
        self,
        kind: str,
        column: int,
        title: str | None = None,
        size: tuple[int, int] | None = None,
        **inputs: Any,
    ) -> Node:
        """A node; inputs that are not given take their defaults."""
        node = Node(kind, inputs, column, title, size, len(self.nodes) + 1)
        self.nodes.append(node)
        return node

    def save(self, name: str) -> None:
        write(WORKFLOWS / f"{name}.json", self.for_page(name))
        write(WORKFLOWS / "api" / f"{name}.json", self.for_api())

    def for_api(self) -> dict[str, Any]:
        return {
            str(node.id): {
                "class_type": node.kind,
                "inputs": {**self._widgets(node), **self._links(node)},
                "_meta": {"title": node.title or self.known[node.kind]["display_name"]},
            }
            for node in self.nodes
            if node.kind != "MarkdownNote"
        }

    def for_page(self, name: str) -> dict[str, Any]:
        return page(name, *self._draw())

    def _draw(self) -> tuple[list[dict[str, Any]], list[list[Any]]]:
        """The nodes as the page keeps them, and the links between them."""
        places = self._lay_out()
        links: list[list[Any]] = []
        shown = [self._show(node, places[node.id], links) for node in self.nodes]
        for link in links:
            plug(link, shown)
        return shown, links

    def _show(self, node: Node, place: tuple[int, ...], links: list[list[Any]]) -> dict[str, Any]:
        x, y, w, h = place
        out = {
            "id": node.id, "type": node.kind, "pos": [x, y], "size": [w, h], "flags": {},
            "order": node.id - 1, "mode": 0, "inputs": [], "outputs": [],
        }  # fmt: skip
        if node.title:
            out["title"] = node.title
        if node.kind == "MarkdownNote":
            return {**out, "properties": {}, "widgets_values": [node.inputs["text"]]}
        given = self._links(node)
        for slot, (name, (kind, _, optional)) in enumerate(self._sockets(node).items()):
            kind = "COMBO" if isinstance(kind, list) else kind
            link = None
            if name in given:
                source, index = given[name]
                link = len(links) + 1
                links.append([link, int(source), index, node.id, slot, kind])
            shape = {"shape": 7} if optional else {}
            widget = {"widget": {"name": name}} if self._is_widget(node, name) else {}
            out["inputs"].append({"name": name, "type": kind, **shape, **widget, "link": link})
        info = self.known[node.kind]
        for kind, name, many in zip(info["output"], info["output_name"], info["output_is_list"]):
            shape = {"shape": 6} if many else {}
            out["outputs"].append({"name": name, "type": kind, **shape, "links": None})
        ours = node.kind.startswith("ConceptAttention")
        properties: dict[str, Any] = {"Node name for S&R": node.kind}
        if not ours:
            properties["cnr_id"] = "comfy-core"
        files = FILES.get(node.kind, []) if node.files is None else node.files
        if files:
            properties["models"] = [
                {"name": name, "url": f"{HUB}{folder}{name}", "directory": where}
                for name, folder, where in files
            ]
        values = []
        for name, value in self._widgets(node).items():
            values.append(value)
            options = self._declared(node)[name][1]
            if options.get("control_after_generate"):
                values.append("fixed")
            if options.get("image_upload"):
                values.append("image")
        return {
            **out,
            "properties": properties,
            "widgets_values": values,
            **(COLOUR if ours else {}),
        }

    def _lay_out(self) -> dict[int, tuple[int, int, int, int]]:
        """Left, top, width and height of each node."""
        columns = sorted({node.column for node in self.nodes})
        places, left = {}, 0
        for column in columns:
            own = [node for node in self.nodes if node.column == column]
            top, widest = 0, WIDTH
            for node in own:
                w, h = node.size or (WIDTH, self._guess_height(node))
                places[node.id] = (left, top, w, h)
                top += h + TOP + GAP
                widest = max(widest, w)
            left += widest + GAP
        return places

    def _guess_height(self, node: Node) -> int:
        plain = [name for name in self._sockets(node) if not self._is_widget(node, name)]
        slots = max(len(plain), len(self.known[node.kind]["output"]))
        widgets = [self._declared(node)[name][1] for name in self._widgets(node)]
        seeds = sum(bool(options.get("control_after_generate")) for options in widgets)
        return TOP + LINE * (slots + sum(map(rows, widgets)) + seeds)

    def _declared(self, node: Node) -> dict[str, tuple[Any, dict[str, Any], bool]]:
        inputs = self.known[node.kind]["input"]
        return {
            name: (spec[0], spec[1] if len(spec) > 1 else {}, part == "optional")
            for part in ("required", "optional")
            for name, spec in inputs.get(part, {}).items()
        }

    def _is_widget(self, node: Node, name: str) -> bool:
        kind, options, _ = self._declared(node)[name]
        return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")

    def _sockets(self, node: Node) -> dict[str, Any]:
        """What links can go to, as the page counts it: widgets, if any has a link, come last."""
        declared = self._declared(node)
        widgets = [name for name in declared if self._is_widget(node, name)]
        plain = [name for name in declared if name not in widgets]
        with_link = widgets if set(widgets) & set(self._links(node)) else []
        return {name: declared[name] for name in (*plain, *with_link)}

    def _links(self, node: Node) -> dict[str, list[Any]]:
        return {name: list(v) for name, v in node.inputs.items() if isinstance(v, tuple)}

    def _widgets(self, node: Node) -> dict[str, Any]:
        values = {}
        for name, (kind, options, _) in self._declared(node).items():
            if self._is_widget(node, name):
                first = kind[0] if isinstance(kind, list) and kind else None
                given = node.inputs.get(name)
                value = self._linked_value(given) if isinstance(given, tuple) else given
                values[name] = options.get("default", first) if value is None else value
        unknown = set(node.inputs) - set(self._declared(node))
        assert not unknown, f"{node.kind} has no {unknown}"
        return values

    def _linked_value(self, source: Output) -> Any:
        """What a widget shows whose value comes by a link; None is its default."""
        return None


def write(file: Path, graph: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(graph, indent=1) + "\n", "utf-8")


def rows(options: dict[str, Any]) -> int:
    """Lines that a widget takes."""
    return 5 if options.get("multiline") else 1


def identify(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"conceptattention/{name}"))


def plug(link: list[Any], nodes: list[dict[str, Any]]) -> None:
    """Tell the output that a link comes from."""
    number, source, slot, *_ = link
    if source > 0:  # what comes from outside a subgraph has no node in it
        out = nodes[source - 1]["outputs"][slot]
        out["links"] = [*(out["links"] or []), number]


def page(name: str, nodes: list[dict[str, Any]], links: list[list[Any]]) -> dict[str, Any]:
    """What the page saves."""
    return {
        "id": identify(name),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


# --- what both models need ------------------------------------------------------------------------


@dataclass
class Start:
    """A model with what belongs to it, and how to ask it for a picture."""

    graph: Graph
    model: Output
    clip: Output
    vae: Output
    flux: bool

    def prompt(self, text: str | Output, column: int = 1, title: str = "Prompt") -> Node:
        encoded = self.graph.add("CLIPTextEncode", column, title, clip=self.clip, text=text)
        if not self.flux:
            return encoded
        return self.graph.add("FluxGuidance", column, conditioning=encoded[0], guidance=3.5)

    def nothing(self, prompt: Node, column: int = 1) -> Node:
        """The negative prompt: empty; of no account to Flux.1 dev, which is sampled at cfg 1."""
        title = "Negative prompt"
        if self.flux:
            return self.graph.add("ConditioningZeroOut", column, title, conditioning=prompt[0])
        return self.graph.add("CLIPTextEncode", column, title, clip=self.clip, text="")

    def empty(self, column: int = 1, batch: int = 1) -> Node:
        side = 1024 if self.flux else 256
        return self.graph.add(
            "EmptySD3LatentImage", column, width=side, height=side, batch_size=batch
        )

    def sample(
        self,
        positive: Node,
        negative: Node,
        latent: Output,
        column: int = 2,
        model: Output | None = None,
        title: str | None = None,
        **more: Any,
    ) -> Node:
        settings = {
            "seed": 3, "steps": 20, "cfg": 1.0 if self.flux else 3.0, "sampler_name": "euler",
            "scheduler": "simple", "denoise": 1.0, **more,
        }  # fmt: skip
        return self.graph.add(
            "KSampler",
            column,
            title,
            model=model or self.model,
            positive=positive[0],
            negative=negative[0],
            latent_image=latent,
            **settings,
        )

    def decode(self, latent: Node, column: int = 2) -> Node:
        return self.graph.add("VAEDecode", column, samples=latent[0], vae=self.vae)

    def locate(self, picture: Output, concepts: str | Output, column: int = 2) -> Node:
        return self.graph.add(
            "ConceptAttentionLocate",
            column,
            model=self.model,
            clip=self.clip,
            vae=self.vae,
            image=picture,
            concepts=concepts,
        )

    def record(self, concepts: str, column: int = 1, title: str | None = None, **more: Any) -> Node:
        return self.graph.add(
            "ConceptAttentionRecord",
            column,
            title,
            model=self.model,
            clip=self.clip,
            concepts=concepts,
            **more,
        )


def start_demo(graph: Graph, note: str) -> Start:
    demo = graph.add("ConceptAttentionDemoModel", 0)
    graph.add("MarkdownNote", 0, "Read me", (WIDTH, 460), text=note)
    return Start(graph, demo[0], demo[1], demo[2], flux=False)


def start_flux(graph: Graph, note: str) -> Start:
    unet = graph.add("UNETLoader", 0, unet_name="flux1-dev.safetensors", weight_dtype="default")
    clips = graph.add(
        "DualCLIPLoader",
        0,
        clip_name1="clip_l.safetensors",
        clip_name2="t5xxl_fp16.safetensors",
        type="flux",
        device="default",
    )
    vae = graph.add("VAELoader", 0, vae_name="ae.safetensors")
    graph.add("MarkdownNote", 0, "Read me", (WIDTH, 520), text=f"{note}\n\n{STOCK}")
    return Start(graph, unet[0], clips[0], vae[0], flux=True)


# --- the gallery: one idea each -------------------------------------------------------------------

PROMPT = "a red hot-air balloon over a lake, sun, mountains, clouds, day sky"
CONCEPTS = "balloon\nsun\nsky\nmountains\nclouds\nwater"
PICTURE = (WIDTH, 360)


def paint(start: Start, prompt: str = PROMPT, concepts: str = CONCEPTS, **more: Any) -> tuple:
    """Record, sample, decode: the sampler's node, the decoded picture's and the conditions."""
    recorded = start.record(concepts)
    positive = start.prompt(prompt)
    negative = start.nothing(positive)
    empty = start.empty(batch=more.pop("batch", 1))
    sampled = start.sample(positive, negative, empty[0], model=recorded[0], **more)
    return sampled, start.decode(sampled), positive, negative


def preview_masks(graph: Graph, masks: Node, column: int, title: str = "One mask per word") -> None:
    converted = graph.add("MaskToImage", column, mask=masks[0])
    graph.add("PreviewImage", column, title, (700, 300), images=converted[0])


def first_masks(start: Start) -> None:
    graph = start.graph
    sampled, picture, *_ = paint(start)
    graph.add("SaveImage", 2, "The picture", PICTURE, images=picture[0], filename_prefix="masks")
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    masks = graph.add("ConceptAttentionMasks", 3, maps=maps[0], image=picture[0])
    view = {"maps": maps[0], "image": picture[0]}
    graph.add("ConceptAttentionOverlay", 4, "Concept Overlay: regions", (430, 520), **view)
    preview_masks(graph, masks, 4)
    title = "Concept Overlay: heat maps"
    graph.add("ConceptAttentionOverlay", 5, title, (760, 520), view="heat maps", **view)


PICK = (
    "**Concept Masks** gives one MASK per word. **Pick Concept Mask** gives one by name, for any "
    "node that takes a mask."
)
HOW_TO_RECORD = (
    "1. **Record Concepts** sits between model and sampler. The picture does not change by a "
    "single bit.\n2. **Concept Maps** reads the sampler's LATENT.\n3. **Concept Overlay** shows "
    f"what is where.\n4. {PICK}\n\nChange a word and run again. Change a threshold: then nothing "
    "is sampled anew."
)


def look(start: Start, picture: Node, concepts: str) -> None:
    graph = start.graph
    maps = start.locate(picture[0], concepts)
    masks = graph.add("ConceptAttentionMasks", 2, maps=maps[0], image=picture[0])
    view = {"maps": maps[0], "image": picture[0]}
    graph.add("ConceptAttentionOverlay", 3, "Concept Overlay: regions", (430, 520), **view)
    preview_masks(graph, masks, 3)
    title = "Concept Overlay: heat maps"
    graph.add("ConceptAttentionOverlay", 4, title, (760, 520), view="heat maps", **view)


def photo_to_masks(start: Start) -> None:
    photo = start.graph.add("LoadImage", 1, "The picture", (WIDTH, 400), image="example.png")
    look(start, photo, "person\nclothes\nplants\nsky\nground\nbuilding")


def picture_to_masks(start: Start) -> None:
    positive = start.prompt(PROMPT)
    negative = start.nothing(positive)
    sampled = start.sample(positive, negative, start.empty()[0], column=1)
    picture = start.decode(sampled, column=1)
    start.graph.add(
        "SaveImage", 1, "The picture", PICTURE, images=picture[0], filename_prefix="picture"
    )
    look(start, picture, CONCEPTS)


HOW_TO_LOCATE = (
    "1. **Locate Concepts in Image** shows the model the picture once, slightly noised, with the "
    "words riding along. Nothing is painted.\n2. **Concept Overlay** shows what is where.\n"
    f"3. {PICK}\n\nWords compete: name what surrounds the thing, too. Five *samples* are steadier "
    "than one."
)


def paint_within(
    start: Start,
    mask: Output,
    picture: Output,
    latent: Output,
    prompt: str | Output,
    negative: Node,
    column: int = 4,
    fit: bool = False,
    **more: Any,
) -> Node:
    """Paint again where the mask is, and put that into the picture.

    `latent` is the picture's; `fit` lets the picture have a size that latents cannot have.
    """
    graph = start.graph
    limited = graph.add("SetLatentNoiseMask", column, samples=latent, mask=mask)
    wanted = start.prompt(prompt, column, "What to paint there")
    again = start.sample(
        wanted,
        negative,
        limited[0],
        column=column,
        title="Paint again",
        **{"denoise": 0.9, **more},
    )
    # The sampler returns the rest only to within rounding.
    kept = graph.add(
        "LatentCompositeMasked",
        column + 1,
        "Keep the rest",
        destination=latent,
        source=again[0],
        mask=mask,
        x=0,
        y=0,
        resize_source=False,
    )
    repainted = start.decode(kept, column=column + 1)
    return graph.add(
        "ImageCompositeMasked",
        column + 1,
        destination=picture,
        source=repainted[0],
        mask=mask,
        x=0,
        y=0,
        resize_source=fit,
    )


def repaint(start: Start, name: str, prompt: str, invert: bool, prefix: str, **more: Any) -> None:
    """Paint, find a thing, paint again within its mask (or outside it) and put both together."""
    graph = start.graph
    sampled, picture, _, negative = paint(start)
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    mask = graph.add(
        "ConceptAttentionPick",
        3,
        maps=maps[0],
        image=picture[0],
        name=name,
        threshold="otsu",
        invert=invert,
        grow=-4 if invert else 8,
        feather=8,
    )
    graph.add("MaskPreview", 3, "What may change", (WIDTH, 300), mask=mask[0])
    whole = paint_within(start, mask[0], picture[0], sampled[0], prompt, negative, **more)
    graph.add("PreviewImage", 5, "Before", PICTURE, images=picture[0])
    graph.add("SaveImage", 5, "After", PICTURE, images=whole[0], filename_prefix=prefix)


def change_only_this(start: Start) -> None:
    prompt = "a green hot-air balloon over a lake, sun, mountains, clouds, day sky"
    repaint(start, "balloon", prompt, invert=False, prefix="change_only_this", seed=5)


def swap_background(start: Start) -> None:
    prompt = "a red hot-air balloon, night sky above snow, moon"
    repaint(start, "balloon", prompt, invert=True, prefix="swap_background")


def grade_one_thing(start: Start) -> None:
    graph = start.graph
    sampled, picture, *_ = paint(start)
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    mask = graph.add(
        "ConceptAttentionPick",
        3,
        maps=maps[0],
        image=picture[0],
        name="water",
        threshold="otsu",
        soft=True,
        contrast=3.0,
    )
    graph.add("MaskPreview", 3, "How much is graded", (WIDTH, 300), mask=mask[0])
    side = 1024 if start.flux else 256
    tint = graph.add("EmptyImage", 4, "The colour", width=side, height=side, color=0xC86432)
    graded = graph.add(
        "ImageBlend",
        4,
        image1=picture[0],
        image2=tint[0],
        blend_factor=0.8,
        blend_mode="overlay",
    )
    whole = graph.add(
        "ImageCompositeMasked",
        4,
        destination=picture[0],
        source=graded[0],
        mask=mask[0],
        x=0,
        y=0,
        resize_source=False,
    )
    graph.add("PreviewImage", 5, "Before", PICTURE, images=picture[0])
    graph.add("SaveImage", 5, "After", PICTURE, images=whole[0], filename_prefix="grade_one_thing")


def layers_to_file(start: Start) -> None:
    graph = start.graph
    sampled, picture, *_ = paint(start)
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    masks = graph.add(
        "ConceptAttentionMasks", 3, maps=maps[0], image=picture[0], threshold="competition"
    )
    stack = graph.add("ConceptAttentionLayers", 4, image=picture[0], masks=masks[0], names=masks[1])
    graph.add("ConceptAttentionSaveLayers", 4, layers=stack[0])
    graph.add("ConceptAttentionSaveMasks", 4, mask=masks[0], name=masks[1])
    cut = graph.add("ConceptAttentionCutOut", 4, image=picture[0], mask=masks[0])
    graph.add("PreviewImage", 5, "Cut-outs", (700, 420), images=cut[0])
    graph.add("PreviewImage", 5, "The picture", PICTURE, images=picture[0])


def regions_that_find_themselves(start: Start) -> None:
    graph = start.graph
    sampled, picture, positive, negative = paint(start, steps=8)
    graph.add("PreviewImage", 2, "First, short run", PICTURE, images=picture[0])
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    masks = graph.add(
        "ConceptAttentionMasks", 3, maps=maps[0], image=picture[0], threshold="otsu", feather=8
    )
    steered = graph.add(
        "ConceptAttentionRegions",
        3,
        clip=start.clip,
        conditioning=positive[0],
        masks=masks[0],
        names=masks[1],
        prompts="balloon: a yellow hot-air balloon",
        strength=3.0,
        only_mentioned=True,
    )
    graph.add(
        "ConceptAttentionOverlay", 4, "Where things are", (430, 520), maps=maps[0], image=picture[0]
    )
    again = start.sample(steered, negative, start.empty(4)[0], column=4, title="Paint with regions")
    repainted = start.decode(again, column=5)
    graph.add("SaveImage", 5, "Second run", PICTURE, images=repainted[0], filename_prefix="regions")


def compare_spaces(start: Start) -> None:
    """The very same picture, recorded twice: Concept Maps is told which recording is meant."""
    graph = start.graph
    positive = start.prompt(PROMPT)
    negative = start.nothing(positive)
    empty = start.empty()
    for row, (space, title) in enumerate(
        (("output", "Output space: the paper's"), ("cross-attention", "Cross-attention"))
    ):
        recorded = start.record(CONCEPTS, title=title, space=space)
        # a seed of its own: no other workflow is to find these recordings
        sampled = start.sample(positive, negative, empty[0], model=recorded[0], seed=1)
        picture = start.decode(sampled)
        maps = graph.add("ConceptAttentionMaps", 3, title, latent=sampled[0], model=recorded[0])
        view = {"maps": maps[0], "image": picture[0]}
        graph.add("ConceptAttentionOverlay", 4 + row, title, (430, 520), **view)
        graph.add(
            "ConceptAttentionOverlay", 4 + row, f"{title}: heat maps", (600, 520),
            view="heat maps", **view,
        )  # fmt: skip


def seed_picker(start: Start) -> None:
    graph = start.graph
    prompt = "a red hot-air balloon and a boat on a lake, mountains, day sky"
    concepts = "balloon\nboat\nsky\nmountains\nwater"
    sampled, pictures, *_ = paint(start, prompt, concepts, batch=4)
    graph.add("PreviewImage", 2, "All seeds", PICTURE, images=pictures[0])
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    graph.add("ConceptAttentionScores", 3, size=(420, 420), maps=maps[0])
    passed = graph.add(
        "ConceptAttentionGate",
        4,
        maps=maps[0],
        image=pictures[0],
        names="balloon, boat",
        coverage=1.0,
    )
    graph.add(
        "SaveImage",
        4,
        "Those that show what was asked for",
        (430, 420),
        images=passed[0],
        filename_prefix="seed_picker",
    )


def look_inside(start: Start) -> None:
    graph = start.graph
    sampled, picture, *_ = paint(start)
    graph.add("PreviewImage", 2, "The picture", PICTURE, images=picture[0])
    maps = graph.add("ConceptAttentionMaps", 3, latent=sampled[0])
    both = {"maps": maps[0], "image": picture[0]}
    graph.add("ConceptAttentionExplorer", 4, size=(620, 860), **both)
    graph.add("ConceptAttentionSheet", 5, size=(860, 420), maps=maps[0], name="balloon")
    labels = graph.add("ConceptAttentionLabels", 3, **both)
    graph.add("PreviewImage", 5, "Label map", (430, 430), images=labels[0])


@dataclass(frozen=True)
class Idea:
    """A workflow: how it is drawn, what its note says, and what its files are called."""

    draw: Callable[[Start], None]
    note: str
    demo: str | None
    flux: str | None


IDEAS = [
    Idea(
        first_masks,
        "# First masks\n\nPress **Run**. A balloon over a lake is painted, and every word in "
        f"**Record Concepts** comes out as a mask.\n\n{HOW_TO_RECORD}",
        "first_masks",
        "first_masks_flux_dev",
    ),
    Idea(
        photo_to_masks,
        "# Photo to masks\n\nChoose a picture in **Load Image** and write what is in it, in "
        "place of the words in **Locate Concepts in Image**, which suit many photos and none "
        f"exactly. Any size and shape.\n\n{HOW_TO_LOCATE}",
        None,
        "photo_to_masks",
    ),
    Idea(
        picture_to_masks,
        "# Picture to masks\n\nPress **Run**. The demo model paints a picture, without any "
        "concepts; then it looks at the finished picture and finds the words in it. In place of "
        f"the painted picture any other will do: **Load Image**.\n\n{HOW_TO_LOCATE}\n\nThe demo "
        "model knows storybook landscapes alone: for photos see *photo_to_masks*.",
        "picture_to_masks_demo",
        None,
    ),
    Idea(
        change_only_this,
        "# Change only this\n\nThe balloon is painted again in another colour; nothing else "
        "changes.\n\n1. **Pick Concept Mask** takes the balloon, a little larger (*grow*), with a "
        "soft edge (*feather*).\n2. **Set Latent Noise Mask** lets the second sampler paint "
        "there only.\n3. **Keep the rest** (Latent Composite Masked) and **Image Composite "
        "Masked** put the result into the first latent and the first picture: beyond the feather "
        "both are the very same.\n\nOther words in *name* and in the "
        "second prompt change another thing.",
        "change_only_this",
        "change_only_this_flux_dev",
    ),
    Idea(
        swap_background,
        "# Swap the background\n\nEverything but the balloon is painted again.\n\nIt is *Change "
        "only this* with *invert* on in **Pick Concept Mask**, and *grow* below 0, so that the "
        "new surroundings reach right up to the thing.",
        "swap_background",
        "swap_background_flux_dev",
    ),
    Idea(
        grade_one_thing,
        "# Grade one thing\n\nOnly the water changes its colour.\n\nA *soft* mask fits what has "
        "no sharp edge: water, fog, glow, fabric. *contrast* says how steep it is. Any other "
        "node that changes a picture may stand in place of **Image Blend**.",
        "grade_one_thing",
        "grade_one_thing_flux_dev",
    ),
    Idea(
        layers_to_file,
        "# Layers to file\n\nOne named layer per word above the whole picture, in a file of "
        "Photoshop's format, PSD; and the masks as PNG files called by their words.\n\n"
        "With *threshold* at `competition` no pixel is in two layers.\n\n**Save Layers** needs "
        "`pip install psd-tools` in ComfyUI's Python.",
        "layers_to_file",
        "layers_to_file_flux_dev",
    ),
    Idea(
        regions_that_find_themselves,
        "# Regions that find themselves\n\nA first, short run shows where the balloon wants to "
        "be. Its mask becomes a region with a prompt of its own for the second run: a yellow "
        "balloon, though the prompt for the whole picture says a red one.\n\nWrite in **Prompt "
        "Regions** what to paint where: `name: prompt`, one per line. *strength* says how much "
        "that counts beside the prompt for the whole picture.",
        "regions_that_find_themselves",
        "regions_that_find_themselves_flux_dev",
    ),
    Idea(
        compare_spaces,
        "# Compare spaces\n\nThe same picture, twice: concepts found in the *output space* of the "
        "attention (ConceptAttention) and by *cross-attention*, what earlier methods used.\n\n"
        "Both recordings belong to the very same latent, so **Concept Maps** is told by *model* "
        "which one is meant.",
        "compare_spaces",
        "compare_spaces_flux_dev",
    ),
    Idea(
        seed_picker,
        "# Seed picker\n\nFour seeds at once; only those go on in which the balloon and the "
        "boat landed.\n\n**Concept Scores** tells what each picture shows. **Concept Gate** "
        "says how much of the picture each word has to cover.",
        "seed_picker",
        "seed_picker_flux_dev",
    ),
    Idea(
        look_inside,
        "# Look inside\n\n**Concept Explorer**: point at a pixel, click for a mask, slide steps "
        "and blocks. It is also written as one HTML file to keep or send.\n\n**Concept Map "
        "Sheet**: one word in every block and step. Good ranges for **Concept Maps** can be read "
        "off it.",
        "look_inside",
        "look_inside_flux_dev",
    ),
]


def ask_comfyui() -> Info:
    """Which nodes there are and what inputs they take."""
    sys.path.insert(0, str(ROOT))
    from tests.comfyui.server import Server

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "comfyui"
        server = Server(Path(os.environ["COMFYUI_PATH"]), place)
        (place / "input" / "example.png").touch()
        try:
            return server.object_info()
        finally:
            server.stop()


def main() -> None:
    known = ask_comfyui()
    for idea in IDEAS:
        for name, begin in ((idea.demo, start_demo), (idea.flux, start_flux)):
            if name:
                graph = Graph(known)
                idea.draw(begin(graph, idea.note))
                graph.save(name)
                print(name)


if __name__ == "__main__":
    main()
