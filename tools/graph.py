"""Writes graphs for ComfyUI: as its page saves them, and as scripts send them.

A graph is written as nodes in columns; where the nodes stand, their sockets, links and widgets
follow from what ComfyUI says of its nodes (`/object_info`).
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
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


def ask_comfyui() -> Info:
    """Which nodes there are and what inputs they take, from a server of COMFYUI_PATH's."""
    from tests.comfyui.server import Server

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "comfyui"
        server = Server(Path(os.environ["COMFYUI_PATH"]), base)
        (base / "input" / "example.png").touch()
        try:
            return server.object_info()
        finally:
            server.stop()
