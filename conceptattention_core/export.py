"""Files from maps: named masks, heat maps, overlay, label map, report; of videos frame by frame."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
from PIL import Image

from .concepts import ConceptSet
from .maps import ConceptMaps, presence
from .masks import MaskSpec, draw, sharpen, upsample
from .render import LabelMap, Picture, colour, heat_maps, overlay, sheet, strongest, to_image

LOOSE = ("image", "overlay", "sheet", "labels")


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


def place(name: str, frame: int | None = None, ending: str = "png") -> str:
    """Where a file of a picture lies in its folder, or that of one frame in a video's folder."""
    return f"{name}.{ending}" if frame is None else f"{name}/{frame:04}.{ending}"


def save(out: Path, image: Picture, maps: ConceptMaps, b: int, spec: MaskSpec) -> dict:
    """Write every file of picture `b` into `out` and return its part of the report."""
    maps = maps.picture(b)
    _write(out, image, maps, spec)
    save_names(out, maps.concepts)
    return _report(maps, spec, "masks/{}.png")


def save_video(
    out: Path, images: Sequence[Picture], maps: ConceptMaps, spec: MaskSpec, fps: float
) -> dict:
    """Write every file of a video into `out` and return its part of the report.

    What is a file of a picture is a folder of a video, with a file for each frame, from 0000:
    `masks/sky.png` becomes `masks/sky/0000.png`. Such folders are image sequences, each of which a
    compositing program opens as one clip. `video.mp4` and `overlay.mp4` are there to be looked at.
    `maps` are those of this video alone.
    """
    scale = maps.shown.min().item(), maps.shown.max().item()  # of all frames, else colours flicker
    for n, image in enumerate(images):
        _write(out, image, maps.picture(n), spec, n, scale)
        Image.fromarray(image).save(_make_room(out, "image", n))
    save_names(out, maps.concepts)
    save_film(out / "video.mp4", images, fps)
    overlays = (np.asarray(Image.open(out / place("overlay", n))) for n in range(len(images)))
    save_film(out / "overlay.mp4", overlays, fps)
    return {
        "frames": len(images),
        "fps": fps,
        **_report(maps, spec, "masks/{}/%04d.png", by_frame=True),
    }


def forget(out: Path, found: Mapping[str, Any]) -> None:
    """Remove the files of a picture or a video, of which `found` is the part of the report."""
    frames = found.get("frames")
    numbers = [None] if frames is None else range(frames)
    concepts = [
        Path(concept["mask"]).parts[1].removesuffix(".png") for concept in found["concepts"]
    ]
    names = [f"{kind}/{concept}" for kind in ("masks", "heatmaps") for concept in concepts]
    files = [place(name, n) for name in (*names, *LOOSE) for n in numbers]
    files += [place("explorer", n, "html") for n in numbers]
    for file in (*files, "labels.json", "video.mp4", "overlay.mp4"):
        (out / file).unlink(missing_ok=True)
    folders = {parent for file in files for parent in (out / file).parents if out in parent.parents}
    for folder in sorted(folders, reverse=True):  # what lies deeper comes first
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def save_film(file: Path, images: Iterable[Picture], fps: float) -> None:
    """Pictures of one size as a film in MPEG-4, or nothing where OpenCV came without it."""
    images = iter(images)
    first = next(images)
    h, w = first.shape[:2]
    right, below = w % 2, h % 2  # codecs want even sides
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    film = cv2.VideoWriter(str(file), codec, fps, (w + right, h + below))
    for image in chain([first], images):
        even = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
        film.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
    film.release()


def _make_room(out: Path, name: str, frame: int | None) -> Path:
    file = out / place(name, frame)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _write(
    out: Path,
    image: Picture,
    maps: ConceptMaps,
    spec: MaskSpec,
    frame: int | None = None,
    scale: tuple[float, float] | None = None,
) -> None:
    """The files of one picture, of which `maps` are, or of one frame of a video."""
    size, concepts = image.shape[:2], maps.concepts
    files = file_names([concepts.names[c] for c in concepts.shown])
    sharp = sharpen(maps, to_image(image)[None], spec)  # once: it costs more than all the rest
    pixels = sharp if spec.edges else upsample(maps.maps, maps.grid, size)
    masks, labels = draw(maps, spec=spec, pixels=pixels)[:, 0], strongest(sharp[0])
    pictures = {
        f"masks/{name}": (mask.numpy() * 255).round().astype(np.uint8)
        for name, mask in zip(files, masks, strict=True)
    }
    heats = heat_maps(maps, 0, size, scale)
    pictures |= {f"heatmaps/{name}": heat for name, heat in zip(files, heats, strict=True)}
    pictures["overlay"] = overlay(image, maps, 0, labels=labels)
    pictures["sheet"] = sheet(image, maps, 0, scale)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(_make_room(out, name, frame))
    paint_palette(labels, concepts).save(_make_room(out, "labels", frame))


def _report(maps: ConceptMaps, spec: MaskSpec, mask: str, by_frame: bool = False) -> dict:
    """What is told of a picture, or of a video: there of all its frames together."""
    concepts, found = maps.concepts, presence(maps)
    files = file_names([concepts.names[c] for c in concepts.shown])
    told = []
    for file, c in zip(files, concepts.shown, strict=True):
        figures = [frame[c] for frame in found]
        coverages = [round(figure.coverage, 4) for figure in figures]
        told.append(
            {
                "name": figures[0].name,
                "words": concepts.concepts[c].words,
                "mask": mask.format(file),
                "present": any(figure.present for figure in figures),
                "coverage": round(fmean(figure.coverage for figure in figures), 4),
                "peak": round(max(figure.peak for figure in figures), 4),
                "mean": round(fmean(figure.mean for figure in figures), 4),
                **({"coverage of frames": coverages} if by_frame else {}),
            }
        )
    return {"concepts": told, "maps": maps.settings, "masks": asdict(spec)}


def save_names(out: Path, concepts: ConceptSet) -> None:
    """Which name and colour stands for which value of a label map, as labels.json."""
    names = {
        c: {"name": concept.name, "colour": colour(c), "hidden": concept.hidden}
        for c, concept in enumerate(concepts.concepts)
    }
    (out / "labels.json").write_text(
        json.dumps(names, ensure_ascii=False, indent=1) + "\n", "utf-8"
    )


def paint_palette(labels: LabelMap, concepts: ConceptSet) -> Image.Image:
    """A label map as a picture with a palette: its values are the positions of concepts."""
    image = Image.fromarray(labels, mode="P")
    image.putpalette([channel for c in range(len(concepts)) for channel in colour(c)])
    return image
