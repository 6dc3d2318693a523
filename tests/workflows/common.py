"""What several tests of this folder share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ..comfyui.graphs import WORKFLOWS, node

FILES = sorted(WORKFLOWS.glob("*.json"))
MODELS = sorted((WORKFLOWS / "models").glob("*.json"))
"""First masks with each family of models."""

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}

each_workflow = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def twin(file: Path) -> dict[str, Any]:
    """The same workflow in API format."""
    return read(file.parent / "api" / file.name)


def pretend_models(server) -> None:
    """Empty files under the names that workflows load."""
    for file in (*FILES, *MODELS):
        for wanted in read(file)["nodes"]:
            for model in wanted["properties"].get("models", []):
                folder = server.folder / "models" / model["directory"]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / model["name"]).touch()
            if wanted["type"] == "UNETLoader":  # not every model has a known place to come from
                name, _ = wanted["widgets_values"]
                (server.folder / "models" / "diffusion_models" / name).touch()


def put_example(server) -> None:
    """The picture that every ComfyUI brings and workflows load; here another one."""
    down, right = np.mgrid[0:256, 0:256].astype(np.uint8)
    picture = np.stack([right, np.where(down > 128, 200, 90), 255 - down], axis=-1)
    Image.fromarray(picture.astype(np.uint8)).save(server.folder / "input" / "example.png")


def inputs_of(info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Type and options of every input of a node class, in order."""
    declared = [*info["input"].get("required", {}).items()]
    declared += info["input"].get("optional", {}).items()
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in declared}


def choices(kind: Any, options: dict[str, Any]) -> list[Any] | None:
    """What a combo accepts: older nodes put the list in place of the type."""
    return kind if isinstance(kind, list) else options.get("options")


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")


def widget_values(shown: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    values = iter(shown["widgets_values"])
    named = {}
    for name, (kind, options) in inputs_of(info).items():
        if is_widget(kind, options):
            named[name] = next(values)
            if options.get("control_after_generate") or options.get("image_upload"):
                next(values)  # the page's own: fixed, increment, randomize; the upload button
    assert list(values) == [], f"{shown['type']} has more values than widgets"
    return named


LOADERS = {"UNETLoader": 0, "DualCLIPLoader": 1, "VAELoader": 2}  # by the demo node's outputs


def with_demo_model(prompt: dict[str, Any]) -> dict[str, Any]:
    """A workflow tried with the small model and few steps: loaders of large ones are replaced by
    the demo node, and the size reduced. All else stays."""
    kinds = {name: one["class_type"] for name, one in prompt.items()}
    outputs = {name: LOADERS[kind] for name, kind in kinds.items() if kind in LOADERS}
    small = {"width": 256, "height": 256, "steps": 4}
    replaced = {"demo": node("ConceptAttentionDemoModel")} if outputs else {}
    for name, one in prompt.items():
        if name not in outputs:
            inputs = dict(one["inputs"])
            for key, value in inputs.items():
                if isinstance(value, int):
                    inputs[key] = small.get(key, value)
                elif isinstance(value, list) and value[0] in outputs:
                    inputs[key] = ["demo", outputs[value[0]]]
            replaced[name] = node(one["class_type"], **inputs)
    return replaced


def latent(server, result, name: str) -> np.ndarray:
    """What a SaveLatent node wrote, b c y x."""
    (saved,) = result.outputs[name]["latents"]
    return load_file(server.folder / "output" / saved["subfolder"] / saved["filename"])[
        "latent_tensor"
    ]


def touched(mask: np.ndarray) -> np.ndarray:
    """The latent pixels (y x) over which a mask h w has any part."""
    height, width = mask.shape
    return mask.reshape(height // 8, 8, width // 8, 8).max(axis=(1, 3)) > 0


def again(graph: dict[str, Any], start: list, **inputs: Any) -> dict[str, Any]:
    """A second KSampler over what a first one made."""
    settings = {**graph["sampler"]["inputs"], "latent_image": start, "seed": 9, **inputs}
    return node("KSampler", **settings)


def saved(source: list) -> dict[str, Any]:
    return node("SaveLatent", samples=source, filename_prefix="latents/test")
