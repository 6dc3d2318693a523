"""Remake subgraphs/*.json, the blueprints: whole graphs that ComfyUI's page offers as one node.

    python -m tools.subgraphs

It runs in ComfyUI's Python; COMFYUI_PATH names ComfyUI, which hands out the subgraphs of every
pack; its page calls each by the name of its file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .graph import (
    COLOUR,
    GAP,
    LINE,
    ROOT,
    TOP,
    WIDTH,
    Graph,
    Info,
    Node,
    Output,
    ask_comfyui,
    identify,
    page,
    plug,
    rows,
)
from .parts import Start, paint_within

SUBGRAPHS = ROOT / "subgraphs"
INPUTS, OUTPUTS = -10, -20  # what the page calls the two ends of a subgraph
END = 120  # width of an end


@dataclass
class Subgraph(Graph):
    """A graph with two ends: inputs it takes from outside, and outputs it gives.

    An input that leads to a widget becomes a widget of the node that stands for the subgraph.
    """

    title: str = ""
    about: str = ""
    taken: dict[str, Any] = field(default_factory=dict)
    """Inputs in order, and what those with a widget begin with; None is the widget's default."""
    given: dict[str, Output] = field(default_factory=dict)

    def take(self, name: str, value: Any = None) -> Output:
        self.taken[name] = value
        return str(INPUTS), len(self.taken) - 1

    def for_page(self, name: str) -> dict[str, Any]:
        """A page with one node, and beside it what is inside."""
        nodes, links = self._draw()
        inside = self._define(name, nodes, links)
        outside = self._stand_in(inside)
        whole = page(name, [outside], [])
        # The page wants every number but once, inside or outside.
        return {**whole, "last_node_id": outside["id"], "definitions": {"subgraphs": [inside]}}

    def _draw(self) -> tuple[list[dict[str, Any]], list[list[Any]]]:
        nodes, links = super()._draw()
        for end, (source, slot) in enumerate(self.given.values()):
            kind = nodes[int(source) - 1]["outputs"][slot]["type"]
            links.append([len(links) + 1, int(source), slot, OUTPUTS, end, kind])
            plug(links[-1], nodes)
        return nodes, links

    def _linked_value(self, source: Output) -> Any:
        node, slot = source
        return list(self.taken.values())[slot] if int(node) == INPUTS else None

    def _define(
        self, name: str, nodes: list[dict[str, Any]], links: list[list[Any]]
    ) -> dict[str, Any]:
        entering = [[link for link in links if link[1:3] == [INPUTS, n]] for n in each(self.taken)]
        leaving = [[link for link in links if link[3:5] == [OUTPUTS, n]] for n in each(self.given)]
        right = max(node["pos"][0] + node["size"][0] for node in nodes) + GAP
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        return {
            "id": identify(f"subgraph/{name}"),
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": len(nodes),
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.title,
            "description": self.about,
            "category": "ConceptAttention",
            "inputNode": {"id": INPUTS, "bounding": bounds(-END - GAP, entering)},
            "outputNode": {"id": OUTPUTS, "bounding": bounds(right, leaving)},
            "inputs": slots(f"{name}/in", self.taken, entering),
            "outputs": slots(f"{name}/out", self.given, leaving),
            "widgets": [],
            "nodes": nodes,
            "groups": [],
            "links": [dict(zip(keys, link)) for link in links],
            "extra": {},
        }

    def _stand_in(self, inside: dict[str, Any]) -> dict[str, Any]:
        """The node that stands for the whole."""
        inputs, lines = [], 0
        for end, slot in enumerate(inside["inputs"]):
            node, name = self._target(end)
            widget = {"widget": {"name": slot["name"]}} if self._is_widget(node, name) else {}
            inputs.append({"name": slot["name"], "type": slot["type"], **widget, "link": None})
            lines += rows(self._declared(node)[name][1])
        outputs = [{"name": s["name"], "type": s["type"], "links": []} for s in inside["outputs"]]
        return {
            "id": len(self.nodes) + 1, "type": inside["id"], "title": self.title, "pos": [0, 0],
            "size": [WIDTH, TOP + LINE * lines], "flags": {}, "order": 0, "mode": 0,
            "inputs": inputs, "outputs": outputs, "properties": {},
            "widgets_values": [], **COLOUR,
        }  # fmt: skip

    def _target(self, end: int) -> tuple[Node, str]:
        """The first node and its input that an input of the subgraph leads to."""
        inputs = ((node, *pair) for node in self.nodes for pair in node.inputs.items())
        return next((node, name) for node, name, given in inputs if given == (str(INPUTS), end))


def each(slots: dict[str, Any]) -> range:
    return range(len(slots))


def bounds(left: int, ends: list[list[Any]]) -> list[int]:
    return [left, 0, END, TOP + LINE * len(ends)]


def slots(place: str, names: dict[str, Any], ends: list[list[list[Any]]]) -> list[dict[str, Any]]:
    """The slots of an end, each with its links; their type is the links'."""
    return [
        {
            "id": identify(f"subgraph/{place}/{name}"),
            "name": name,
            "type": links[0][5],
            "linkIds": [link[0] for link in links],
        }
        for name, links in zip(names, ends)
    ]


# --- the blueprints -------------------------------------------------------------------------------


def begin(graph: Subgraph) -> tuple[Start, Output]:
    """The model with what belongs to it, and the picture: all from outside.

    As for Flux.1 dev: the guidance is of no account to models that were trained without it.
    """
    model, clip, vae, picture = (graph.take(name) for name in ("model", "clip", "vae", "image"))
    return Start(graph, model, clip, vae, flux=True), picture


def words_to_masks(graph: Subgraph) -> None:
    start, picture = begin(graph)
    maps = start.locate(picture, graph.take("concepts", ""), column=0)
    view: dict[str, Any] = {"maps": maps[0], "image": picture}
    settings: dict[str, Any] = {name: graph.take(name) for name in ("threshold", "level", "soft")}
    masks = graph.add("ConceptAttentionMasks", 1, **view, **settings)
    overlay = graph.add("ConceptAttentionOverlay", 2, size=(430, 520), **view)
    graph.given |= {"masks": masks[0], "names": masks[1], "overlay": overlay[0]}


def change_only_this(graph: Subgraph) -> None:
    start, picture = begin(graph)
    maps = start.locate(picture, graph.take("concepts", ""), column=0)
    mask = graph.add(
        "ConceptAttentionPick",
        1,
        maps=maps[0],
        image=picture,
        name=graph.take("change", ""),
        threshold="otsu",
        grow=graph.take("grow", 8),
        feather=graph.take("feather", 8),
    )
    latent = graph.add("VAEEncode", 1, pixels=picture, vae=start.vae)
    # Read above cfg 1 alone, where zeros, as the gallery's Flux.1 dev has them, are not enough.
    negative = graph.add("CLIPTextEncode", 1, "Negative prompt", clip=start.clip, text="")
    prompt = graph.take("prompt", "")
    sampling = {"seed": 0, "steps": 20, "cfg": 1.0, "denoise": 0.9}
    taken = {name: graph.take(name, value) for name, value in sampling.items()}
    whole = paint_within(
        start, mask[0], picture, latent[0], prompt, negative, column=2, fit=True, **taken
    )
    graph.given |= {"image": whole[0], "mask": mask[0]}


@dataclass(frozen=True)
class Blueprint:
    """A subgraph: how it is drawn, what its file and its node are called, what it is for."""

    draw: Callable[[Subgraph], None]
    name: str
    title: str
    about: str


BLUEPRINTS = [
    Blueprint(
        words_to_masks,
        "words_to_masks",
        "Words to Masks",
        "Write words, get a mask for each, from any picture: the model looks at it once. Words "
        "compete, so name what surrounds the thing, too.",
    ),
    Blueprint(
        change_only_this,
        "change_only_this",
        "Change Only This",
        "Paints one thing in a picture again; beyond the soft edge of its mask every pixel stays. "
        "Write in 'concepts' what the picture shows, in 'change' which of these words is meant, "
        "and in 'prompt' what to paint there. Models without built-in guidance want a 'cfg' of "
        "about 3.",
    ),
]


def make(known: Info) -> dict[str, dict[str, Any]]:
    """Every blueprint by the name of its file."""
    made = {}
    for blueprint in BLUEPRINTS:
        graph = Subgraph(known, title=blueprint.title, about=blueprint.about)
        blueprint.draw(graph)
        made[blueprint.name] = graph.for_page(blueprint.name)
    return made


def main() -> None:
    SUBGRAPHS.mkdir(exist_ok=True)
    for name, what in make(ask_comfyui()).items():
        (SUBGRAPHS / f"{name}.json").write_text(json.dumps(what, indent=1) + "\n", "utf-8")
        print(name)


if __name__ == "__main__":
    main()
