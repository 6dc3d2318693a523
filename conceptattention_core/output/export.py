"""Files from maps: named masks, heat maps, overlay, label map, report; of videos frame by frame."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
from PIL import Image

from .. import ConceptAttentionError
from ..concepts import ConceptSet
from ..files import naming, remove_files, to_json
from ..maps import ConceptMaps, presence
from ..masks import MaskSpec, draw, sharpen, upsample
from ..texts import name_files
from .render import (
    LabelMap,
    Picture,
    colour,
    count_tiles,
    heat_map,
    overlay,
    sheet,
    strongest,
    to_image,
)

LOOSE = ("image", "overlay", "sheet", "labels")
LARGEST_SIDE = 2048
"""Pixels of overlays and sheets, which are there to be looked at; masks have the picture's size."""


def place(name: str, frame: int | None = None, ending: str = "png") -> str:
    """Where a file of a picture lies in its folder, or that of one frame in a video's folder."""
    return f"{name}.{ending}" if frame is None else f"{name}/{frame:04}.{ending}"


def save(
    out: Path, image: Picture, maps: ConceptMaps, b: int, spec: MaskSpec, full_size: bool = False
) -> dict:
    """Write every file of picture `b` into `out` and return its part of the report.

    Overlay and sheet have at most `LARGEST_SIDE` pixels to a side unless `full_size`.
    """
    maps = maps.picture(b)
    _write(out, image, maps, spec, full_size)
    save_names(out, maps.concepts)
    return _report(maps, spec, "masks/{}.png")


def save_video(
    out: Path,
    images: Sequence[Picture],
    maps: ConceptMaps,
    spec: MaskSpec,
    fps: float,
    full_size: bool = False,
) -> dict:
    """Write every file of a video into `out` and return its part of the report.

    What is a file of a picture is a folder of a video, with a file for each frame, from 0000:
    `masks/sky.png` becomes `masks/sky/0000.png`. Such folders are image sequences, each of which a
    compositing program opens as one clip. `video.mp4` and `overlay.mp4` are there to be looked at.
    `maps` are those of this video alone.
    """
    scale = maps.shown.min().item(), maps.shown.max().item()  # of all frames, else colours flicker
    for n, image in enumerate(images):
        _write(out, image, maps.picture(n), spec, full_size, n, scale)
        save_picture(Image.fromarray(image), _make_room(out, "image", n))
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
    names = [*list_masks(found), *LOOSE]
    files = [place(name, n) for name in names for n in numbers]
    files += [place("explorer", n, "html") for n in numbers]
    remove_files(out, [*files, "labels.json", "video.mp4", "overlay.mp4"])


def list_masks(found: Mapping[str, Any]) -> list[str]:
    """The masks and heat maps of a report's part, without ending."""
    concepts = [
        Path(concept["mask"]).parts[1].removesuffix(".png") for concept in found["concepts"]
    ]
    return [f"{kind}/{concept}" for kind in ("masks", "heatmaps") for concept in concepts]


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
    is_open = film.isOpened()
    film.release()
    if is_open and not (file.is_file() and cv2.VideoCapture(str(file)).read()[0]):
        # OpenCV says nothing; what else ends it is a codec that takes no such size
        free = shutil.disk_usage(file.parent).free / 2**20
        raise ConceptAttentionError(
            f"{file} could not be written whole: {w} x {h} pixels, {free:,.0f} MB are free there."
        )


def save_picture(image: Image.Image, file: Path) -> None:
    """Save a picture; what goes wrong on the disk names the file."""
    large = image.width * image.height > 2**22
    with naming(file):
        image.save(file, compress_level=1 if large else 6)  # 1: a third of the time


def _make_room(out: Path, name: str, frame: int | None) -> Path:
    file = out / place(name, frame)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _write(
    out: Path,
    image: Picture,
    maps: ConceptMaps,
    spec: MaskSpec,
    full_size: bool,
    frame: int | None = None,
    scale: tuple[float, float] | None = None,
) -> None:
    """The files of one picture, of which `maps` are, or of one frame of a video.

    One concept after another: of a large picture all at once are more than everything else.
    """
    if not maps.maps.isfinite().all():
        raise ConceptAttentionError("The maps are not finite (NaN or infinite): nothing is drawn.")
    size, concepts = image.shape[:2], maps.concepts
    names = [concepts.names[c] for c in concepts.shown]
    files = dict(zip(names, name_files(names), strict=True))

    def write(picture: Picture, name: str) -> None:
        save_picture(Image.fromarray(picture), _make_room(out, name, frame))

    sharp = sharpen(maps, to_image(image)[None], spec)  # once: it costs more than all the rest
    labels = strongest(sharp[0])
    pixels = sharp if spec.edges else upsample(maps.maps, maps.grid, size)
    del sharp
    for name, file in files.items():
        mask = draw(maps, [name], spec, pixels=pixels)[0, 0]
        write((mask.numpy() * 255).round().astype(np.uint8), f"masks/{file}")
    del pixels
    save_picture(paint_palette(labels, concepts), _make_room(out, "labels", frame))
    scale = scale or _find_scale(maps, size)
    for c, file in zip(concepts.shown, files.values(), strict=True):
        heat = upsample(maps.maps[:, [c]], maps.grid, size)[0, 0]
        write(heat_map(heat, *scale), f"heatmaps/{file}")
    small = image if full_size else _shrink(image, LARGEST_SIDE)
    seen = _resize(labels, small.shape[1::-1], cv2.INTER_NEAREST)
    write(overlay(small, maps, 0, labels=seen), "overlay")
    write(_draw_sheet(small, maps, scale, full_size), "sheet")


def _find_scale(maps: ConceptMaps, size: tuple[int, int]) -> tuple[float, float]:
    """The darkest and the brightest that a heat map has in a picture of this size `h w`."""
    planes = (upsample(maps.maps[:, [c]], maps.grid, size) for c in maps.concepts.shown)
    ends = [(heat.min().item(), heat.max().item()) for heat in planes]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _shrink(image: Picture, side: float) -> Picture:
    """A picture with at most so many pixels to a side."""
    h, w = image.shape[:2]
    by = min(1.0, side / max(h, w))
    smaller = max(1, int(w * by)), max(1, int(h * by))
    return image if by == 1 else _resize(image, smaller, cv2.INTER_AREA)


def _resize(image: np.ndarray, size: tuple[int, int], how: int) -> Picture:
    """An image at `size` (w, h)."""
    return cv2.resize(image, size, interpolation=how).astype(np.uint8, copy=False)


def _draw_sheet(
    image: Picture, maps: ConceptMaps, scale: tuple[float, float], full_size: bool
) -> Picture:
    columns, rows = count_tiles(1 + len(maps.concepts.shown))
    h, w = image.shape[:2]
    side = float(max(h, w))
    if not full_size:
        side = min(side, side * LARGEST_SIDE / max(columns * w, rows * h))
    while True:  # captions and gaps come on top: they take a small share
        drawn = sheet(_shrink(image, side), maps, 0, scale)
        if full_size or side < 2 or max(drawn.shape) <= LARGEST_SIDE:
            return drawn
        side = min(side - 1, side * LARGEST_SIDE / max(drawn.shape))


def _report(maps: ConceptMaps, spec: MaskSpec, mask: str, by_frame: bool = False) -> dict:
    """What is told of a picture, or of a video: there of all its frames together."""
    concepts, found = maps.concepts, presence(maps)
    files = name_files([concepts.names[c] for c in concepts.shown])
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
    return {"concepts": told, "maps": describe_reading(maps), "masks": asdict(spec)}


def describe_reading(maps: ConceptMaps) -> dict[str, object]:
    """How maps were recorded and read, as a report has it."""
    recording, spec = maps.recording, maps.spec
    return {
        "model": recording.model,
        "tokens": recording.spec.tokens,
        "attend to": recording.spec.method.attend,
        "space": recording.spec.method.space,
        "bounces": recording.spec.method.bounces,
        "steps": spec.steps,
        "blocks": spec.blocks,
        "order": spec.order,
        "temperature": spec.temperature,
        "scale": spec.scale,
    }


def save_names(out: Path, concepts: ConceptSet) -> None:
    """Which name and colour stands for which value of a label map, as labels.json."""
    names = {
        c: {"name": concept.name, "colour": colour(c), "hidden": concept.hidden}
        for c, concept in enumerate(concepts.concepts)
    }
    with naming(out / "labels.json"):
        (out / "labels.json").write_text(to_json(names), "utf-8", "backslashreplace")


def paint_palette(labels: LabelMap, concepts: ConceptSet) -> Image.Image:
    """A label map as a picture with a palette: its values are the positions of concepts."""
    image = Image.fromarray(labels, mode="P")
    image.putpalette([channel for c in range(len(concepts)) for channel in colour(c)])
    return image
