"""Workflow files as prompts in API format, from either form that ComfyUI's page saves."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]
Known = dict[str, dict[str, Any]]
"""A server's object_info."""

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
ON_THE_PAGE = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}
MUTED, BYPASSED = 2, 4
FROM_OUTSIDE = -10
"""The id that stands for a subgraph's inputs in its own links."""


class UnusableError(Exception):
    """A file that is no workflow, or one that cannot become a prompt."""


def read(file: Path, known: Known) -> Prompt:
    """The prompt of a file, or UnusableError with the reason."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"no JSON: {error}") from error
    if isinstance(content, dict) and isinstance(inner := content.get("prompt"), dict):
        content = content if "class_type" in inner else inner  # "prompt" may be a node's own name
    if not isinstance(content, dict):
        raise UnusableError("no workflow: a list or a value where an object is expected")
    try:
        if isinstance(content.get("nodes"), list):
            prompt = flatten(content, known)
        else:
            nodes = {n: one for n, one in content.items() if isinstance(one, dict)}
            prompt = {
                n: {"class_type": str(one["class_type"]), "inputs": dict(one.get("inputs", {}))}
                for n, one in nodes.items()
                if "class_type" in one
            }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnusableError(f"damaged workflow: {type(error).__name__} {error}") from error
    if not prompt:
        raise UnusableError("no workflow: it has no nodes")
    unknown = sorted({one["class_type"] for one in prompt.values()} - known.keys())
    if unknown:
        raise UnusableError(f"unknown nodes: {', '.join(unknown)}")
    return prompt


def is_link(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    )


def inputs_of(info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Type and options of every input of a node class, in order."""
    declared = [*info["input"].get("required", {}).items()]
    declared += info["input"].get("optional", {}).items()
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in declared}


# --- what the page shows --------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """What comes along a link from a node that lives on the page alone."""

    value: Any


@dataclass(frozen=True)
class Page:
    """A workflow, or a subgraph of one together with the node that stands for it outside."""

    prefix: str
    nodes: dict[Any, dict[str, Any]]
    links: dict[Any, tuple[Any, int]]
    definitions: dict[str, dict[str, Any]]
    outside: "Page | None" = None
    shell: dict[str, Any] | None = None
    own: dict[str, Any] | None = None

    def inside(self, shell: dict[str, Any]) -> "Page":
        own = self.definitions[shell["type"]]
        prefix = f"{self.prefix}{shell['id']}:"
        if prefix.count(":") > 20:
            raise ValueError("subgraphs lie in each other")
        return Page(prefix, *parts(own), self.definitions, self, shell, own)


def parts(graph: dict[str, Any]) -> tuple[dict, dict]:
    links = {}
    for link in graph.get("links") or []:
        if isinstance(link, dict):
            links[link["id"]] = (link["origin_id"], link["origin_slot"])
        else:
            links[link[0]] = (link[1], link[2])
    return {one["id"]: one for one in graph["nodes"]}, links


def flatten(workflow: dict[str, Any], known: Known) -> Prompt:
    """What the page makes of a workflow when Run is pressed."""
    subgraphs = (workflow.get("definitions") or {}).get("subgraphs") or []
    definitions = {one["id"]: one for one in subgraphs}
    return dict(prompt_nodes(Page("", *parts(workflow), definitions), known))


def prompt_nodes(page: Page, known: Known) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, shown in page.nodes.items():
        kind = shown["type"]
        if kind in ON_THE_PAGE or shown.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if kind in page.definitions:
            yield from prompt_nodes(page.inside(shown), known)
            continue
        inputs = widget_values(shown, known[kind]) if kind in known else {}
        for slot in shown.get("inputs") or []:
            source = resolve(page, slot.get("link"))
            if isinstance(source, Value):
                inputs[slot["name"]] = source.value
            elif source is not None:
                inputs[slot["name"]] = source
        yield f"{page.prefix}{name}", {"class_type": kind, "inputs": inputs}


def resolve(page: Page, link: Any) -> "list[Any] | Value | None":
    """Where a link comes from, past what lives on the page alone."""
    if link is None or link not in page.links:
        return None
    origin, slot = page.links[link]
    if origin == FROM_OUTSIDE:
        assert page.outside and page.shell and page.own
        name = page.own["inputs"][slot]["name"]
        for one in page.shell.get("inputs") or []:
            if one["name"] == name:
                return resolve(page.outside, one.get("link"))
        return None
    shown = page.nodes[origin]
    mode, kind = shown.get("mode", 0), shown["type"]
    if mode == MUTED:
        return None
    if mode == BYPASSED:
        wanted = shown["outputs"][slot]["type"]
        fitting = [one for one in shown.get("inputs") or [] if one.get("type") == wanted]
        return resolve(page, fitting[0].get("link")) if fitting else None
    if kind == "Reroute":
        return resolve(page, shown["inputs"][0].get("link"))
    if kind == "PrimitiveNode":
        return Value(shown["widgets_values"][0])
    if kind in page.definitions:
        inner = page.inside(shown)
        ends = inner.own["outputs"][slot].get("linkIds") or [] if inner.own else []
        return resolve(inner, ends[0]) if ends else None
    return [f"{page.prefix}{origin}", slot]


def widget_values(shown: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The values of a node's widgets by name; the page stores them in order."""
    stored = shown.get("widgets_values") or []
    if isinstance(stored, dict):
        names = inputs_of(info)
        return {name: value for name, value in stored.items() if name in names}
    return dict(named_values(list(stored), inputs_of(info)))


def named_values(
    left: list[Any], declared: dict[str, tuple[Any, dict[str, Any]]], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, (kind, options) in declared.items():
        if kind == "COMFY_DYNAMICCOMBO_V3" and left:
            chosen = left.pop(0)
            yield f"{prefix}{name}", chosen
            for option in options.get("options", []):
                if option["key"] == chosen:
                    inner = inputs_of({"input": option["inputs"]})
                    yield from named_values(left, inner, f"{prefix}{name}.")
        elif (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput"):
            if left:
                yield f"{prefix}{name}", left.pop(0)
            elif "default" in options:
                yield f"{prefix}{name}", options["default"]
            seed = options.get("control_after_generate") or name in ("seed", "noise_seed")
            if left and seed and left[0] in AFTER_GENERATE:
                left.pop(0)
            elif left and (options.get("image_upload") or options.get("video_upload")):
                left.pop(0)  # the upload button
