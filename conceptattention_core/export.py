"""Files from maps: named masks, heat maps, overlay, label map, report."""

import json
import re
import unicodedata
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from .concepts import ConceptSet
from .maps import ConceptMaps, presence
from .masks import MaskSpec, draw, sharpen, upsample
from .render import LabelMap, Picture, colour, heat_maps, overlay, sheet, strongest, to_image


def file_names(names: list[str]) -> list[str]:
    """A safe, distinct file name for each concept, letters of any alphabet kept.

    Symbols such as emoji are called what Unicode calls them.
    """
    taken: set[str] = set()
    safe = []
    for i, name in enumerate(names):
        spelt = "".join(map(_spell, unicodedata.normalize("NFKC", name)))
        plain = re.sub(r"[^\w-]+", "_", spelt).strip("_")
        plain = plain[:60] or f"concept_{i}"  # with its ending at most 255 bytes
        if re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", plain):  # Windows keeps these
            plain = f"{plain}_"
        unique, n = plain, 2
        while unique.casefold() in taken:
            unique, n = f"{plain}_{n}", n + 1
        taken.add(unique.casefold())
        safe.append(unique)
    return safe


def _spell(one: str) -> str:
    is_symbol = unicodedata.category(one) == "So"
    return f" {unicodedata.name(one, '').lower()} " if is_symbol else one


def save(out: Path, image: Picture, maps: ConceptMaps, b: int, spec: MaskSpec) -> dict:
    """Write every file of picture `b` into `out` and return its part of the report."""
    maps, size = maps.picture(b), image.shape[:2]
    concepts = maps.concepts
    names = [concepts.names[c] for c in concepts.shown]
    files = file_names(names)
    (out / "masks").mkdir(parents=True, exist_ok=True)
    (out / "heatmaps").mkdir(exist_ok=True)
    sharp = sharpen(maps, to_image(image)[None], spec)  # once: it costs more than all the rest
    pixels = sharp if spec.edges else upsample(maps.maps, maps.grid, size)
    masks, labels = draw(maps, spec=spec, pixels=pixels)[:, 0], strongest(sharp[0])
    for name, mask in zip(files, masks, strict=True):
        pixels = (mask.numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(out / "masks" / f"{name}.png")
    for name, heat in zip(files, heat_maps(maps, 0, size), strict=True):
        Image.fromarray(heat).save(out / "heatmaps" / f"{name}.png")
    Image.fromarray(overlay(image, maps, 0, labels=labels)).save(out / "overlay.png")
    Image.fromarray(sheet(image, maps, 0)).save(out / "sheet.png")
    save_labels(out, labels, maps.concepts)
    return {
        "concepts": [
            {
                "name": figure.name,
                "words": concept.words,
                "mask": f"masks/{file}.png",
                "present": figure.present,
                "coverage": round(figure.coverage, 4),
                "peak": round(figure.peak, 4),
                "mean": round(figure.mean, 4),
            }
            for file, figure, concept in zip(
                files,
                [presence(maps)[0][c] for c in concepts.shown],
                [concepts.concepts[c] for c in concepts.shown],
                strict=True,
            )
        ],
        "maps": maps.settings,
        "masks": asdict(spec),
    }


def save_labels(out: Path, labels: LabelMap, concepts: ConceptSet) -> None:
    """The label map as a palette PNG, and which name and colour stands for which value."""
    image = Image.fromarray(labels, mode="P")
    colours = [colour(c) for c in range(len(concepts))]
    image.putpalette([channel for rgb in colours for channel in rgb])
    image.save(out / "labels.png")
    names = {
        c: {"name": concept.name, "colour": colours[c], "hidden": concept.hidden}
        for c, concept in enumerate(concepts.concepts)
    }
    (out / "labels.json").write_text(
        json.dumps(names, ensure_ascii=False, indent=1) + "\n", "utf-8"
    )
