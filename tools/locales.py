"""Remake locales/en/nodeDefs.json, the texts of the nodes, and say what translations lack.

    python -m tools.locales

It runs in ComfyUI's Python; COMFYUI_PATH names ComfyUI. In the other languages of `locales`
nothing is changed but what belongs to no node any more.
"""

from __future__ import annotations

import json
from typing import Any

from .graph import ROOT, ask_comfyui

LOCALES = ROOT / "locales"

Texts = dict[str, Any]


def read_texts(info: dict[str, Any]) -> Texts:
    """The texts of our nodes, from a server's /object_info, as ComfyUI's page wants them."""
    ours = {k: v for k, v in info.items() if v["python_module"] == "custom_nodes.conceptattention"}
    return {name: read_node(node) for name, node in sorted(ours.items())}


def read_node(node: dict[str, Any]) -> Texts:
    inputs = {
        name: {"name": show(name, spec), "tooltip": spec[1]["tooltip"]}
        for part in ("required", "optional")
        for name, spec in node["input"].get(part, {}).items()
    }
    outputs = {
        str(index): {"name": name, "tooltip": tip}
        for index, (name, tip) in enumerate(
            zip(node["output_name"], node["output_tooltips"], strict=True)
        )
    }
    texts = {"display_name": node["display_name"], "description": node["description"]}
    return {**texts, **({"inputs": inputs} if inputs else {}), "outputs": outputs}


def show(name: str, spec: list[Any]) -> str:
    """What an input is called: its own display name, or its id in words."""
    return spec[1].get("display_name") or name.replace("_", " ")


def list_gaps(english: Texts, other: Texts, path: str = "") -> list[str]:
    """What is in one and not in the other, or is no text."""
    gaps = [f"{path}{key} is missing" for key in english.keys() - other.keys()]
    gaps += [f"{path}{key} belongs to no node" for key in other.keys() - english.keys()]
    for key in sorted(english.keys() & other.keys()):
        if isinstance(english[key], dict):
            gaps += list_gaps(english[key], other[key], f"{path}{key}.")
        elif not str(other[key]).strip():
            gaps.append(f"{path}{key} is empty")
    return gaps


def write(language: str, texts: Texts) -> None:
    file = LOCALES / language / "nodeDefs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(texts, ensure_ascii=False, indent=1) + "\n", "utf-8")


def read(language: str) -> Texts:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))


def prune(english: Texts, other: Texts) -> Texts:
    kept = {key: value for key, value in other.items() if key in english}
    return {
        key: prune(english[key], value) if isinstance(value, dict) else value
        for key, value in kept.items()
    }


def main() -> None:
    english = read_texts(ask_comfyui())
    write("en", english)
    for file in sorted(LOCALES.glob("*/nodeDefs.json")):
        language = file.parent.name
        if language != "en":
            write(language, prune(english, read(language)))
        for gap in list_gaps(english, read(language)):
            print(f"{language}: {gap}")


if __name__ == "__main__":
    main()
