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
from ..maps import ConceptMaps, Presence
from ..masks import MaskSpec
from ..pixels import ImageArray
from ..texts import name_files
from .render import LabelMap, concept_colour, count_tiles, draw_overlay, sheet_size
from .rendered import RenderedMaps

LOOSE = ("image", "overlay", "sheet", "labels")
LARGEST_SIDE = 2048
"""Pixels of overlays and sheets, which are there to be viewed; masks have the image's size."""


def file_path(name: str, frame: int | None = None, ending: str = "png") -> str:
    """Where a file of an image lies in its folder, or that of one frame in a video's folder."""
    return f"{name}.{ending}" if frame is None else f"{name}/{frame:04}.{ending}"


def save_image_files(
    out: Path,
    image: ImageArray,
    maps: ConceptMaps,
    spec: MaskSpec,
    full_size: bool = False,
) -> dict[str, Any]:
    """Write every file of an image, of which `maps` are, and return its part of the report.

    Overlay and sheet have at most `LARGEST_SIDE` pixels to a side unless `full_size`.
    """
    rendered = RenderedMaps(maps, image, spec)
    _write(out, image, rendered, full_size)
    save_names(out, maps.concepts)
    return _report(maps, [rendered.presence], spec, "masks/{}.png")


def save_video_files(
    out: Path,
    images: Sequence[ImageArray],
    maps: ConceptMaps,
    spec: MaskSpec,
    fps: float,
    full_size: bool = False,
) -> dict[str, Any]:
    """Write every file of a video, of which `maps` are, and return its part of the report.

    What is a file of an image is a folder of a video, with a file for each frame, from 0000:
    `masks/sky.png` becomes `masks/sky/0000.png`. Such folders are image sequences, each of which a
    compositing program opens as one clip. `video.mp4` and `overlay.mp4` are there to be viewed.
    """
    span = maps.shown.min().item(), maps.shown.max().item()  # of all frames, else colours flicker
    presence = []
    for n, image in enumerate(images):
        rendered = RenderedMaps(maps.of_image(n), image, spec)
        _write(out, image, rendered, full_size, n, span)
        save_image(Image.fromarray(image), _make_room(out, "image", n))
        presence.append(rendered.presence)
    save_names(out, maps.concepts)
    save_mp4(out / "video.mp4", images, fps)
    overlays = (np.asarray(Image.open(out / file_path("overlay", n))) for n in range(len(images)))
    save_mp4(out / "overlay.mp4", overlays, fps)
    return {
        "frames": len(images),
        "fps": fps,
        **_report(maps, presence, spec, "masks/{}/%04d.png", by_frame=True),
    }


def remove_image_files(out: Path, found: Mapping[str, Any]) -> None:
    """Remove the files of an image or a video, of which `found` is the part of the report."""
    frames = found.get("frames")
    numbers = [None] if frames is None else range(frames)
    names = [*list_masks(found), *LOOSE]
    files = [file_path(name, n) for name in names for n in numbers]
    files += [file_path("explorer", n, "html") for n in numbers]
    remove_files(out, [*files, "labels.json", "video.mp4", "overlay.mp4"])


def list_masks(found: Mapping[str, Any]) -> list[str]:
    """The masks and heat maps of a report's part, without ending."""
    concepts = [
        Path(concept["mask"]).parts[1].removesuffix(".png") for concept in found["concepts"]
    ]
    return [f"{kind}/{concept}" for kind in ("masks", "heatmaps") for concept in concepts]


def save_mp4(file: Path, images: Iterable[ImageArray], fps: float) -> None:
    """Images of one size as a video in MPEG-4, or nothing where OpenCV came without it."""
    images = iter(images)
    first = next(images)
    h, w = first.shape[:2]
    right, below = w % 2, h % 2  # codecs want even sides
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    video = cv2.VideoWriter(str(file), codec, fps, (w + right, h + below))
    for image in chain([first], images):
        even = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
        video.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
    is_open = video.isOpened()
    video.release()
    if is_open and not (file.is_file() and cv2.VideoCapture(str(file)).read()[0]):
        # OpenCV says nothing; what else ends it is a codec that takes no such size
        free = shutil.disk_usage(file.parent).free / 2**20
        raise ConceptAttentionError(
            f"{file} could not be written whole: {w} x {h} pixels, {free:,.0f} MB are free there."
        )


def save_image(image: Image.Image, file: Path) -> None:
    """Save an image; what goes wrong on the disk names the file."""
    large = image.width * image.height > 2**22
    with naming(file):
        image.save(file, compress_level=1 if large else 6)  # 1: a third of the time


def _make_room(out: Path, name: str, frame: int | None) -> Path:
    file = out / file_path(name, frame)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _write(
    out: Path,
    image: ImageArray,
    rendered: RenderedMaps,
    full_size: bool,
    frame: int | None = None,
    span: tuple[float, float] | None = None,
) -> None:
    """The files of one image or of one frame of a video, one after another: so few are in memory.

    `span`: see `RenderedMaps.heat_map`.
    """
    concepts, span = rendered.maps.concepts, span or rendered.span
    files = dict(zip(concepts.shown, name_files(rendered.names), strict=True))

    def write(picture: np.ndarray, name: str) -> None:
        save_image(Image.fromarray(picture), _make_room(out, name, frame))

    for c, file in files.items():
        write((rendered.mask(c) * 255).round().astype(np.uint8), f"masks/{file}")
    save_image(draw_palette(rendered.labels, concepts), _make_room(out, "labels", frame))
    for c, file in files.items():
        write(rendered.heat_map(c, span), f"heatmaps/{file}")
    small = image if full_size else _shrink(image, LARGEST_SIDE)
    labels = _resize(rendered.labels, small.shape[1::-1], cv2.INTER_NEAREST)
    write(draw_overlay(small, labels, concepts, rendered.presence), "overlay")
    tile = small if full_size else _shrink(small, _find_tile_side(small, 1 + len(files)))
    if tile.shape != image.shape:
        rendered = RenderedMaps(rendered.maps, tile)
    write(rendered.sheet(span), "sheet")


def _find_tile_side(image: ImageArray, count: int) -> float:
    """Pixels of the longer side of an image in a sheet of so many, so that the sheet is not larger
    than `LARGEST_SIDE`.
    """
    columns, rows = count_tiles(count)
    h, w = image.shape[:2]
    longer = float(max(h, w))
    side = min(longer, longer * LARGEST_SIDE / max(columns * w, rows * h))
    while side >= 2:  # captions and gaps come on top: they take a small share
        largest = max(sheet_size(count, *_shrunk_size(image, side)))
        if largest <= LARGEST_SIDE:
            break
        side = min(side - 1, side * LARGEST_SIDE / largest)
    return side


def _shrunk_size(image: ImageArray, side: float) -> tuple[int, int]:
    """Height and width of an image with at most so many pixels to a side."""
    h, w = image.shape[:2]
    by = min(1.0, side / max(h, w))
    return (h, w) if by == 1 else (max(1, int(h * by)), max(1, int(w * by)))


def _shrink(image: ImageArray, side: float) -> ImageArray:
    """An image with at most so many pixels to a side."""
    h, w = _shrunk_size(image, side)
    return image if (h, w) == image.shape[:2] else _resize(image, (w, h), cv2.INTER_AREA)


def _resize(image: np.ndarray, size: tuple[int, int], how: int) -> ImageArray:
    """An image at `size` (w, h)."""
    return cv2.resize(image, size, interpolation=how).astype(np.uint8, copy=False)


def _report(
    maps: ConceptMaps,
    presence: Sequence[Sequence[Presence]],
    spec: MaskSpec,
    mask: str,
    by_frame: bool = False,
) -> dict[str, Any]:
    """What a report has of an image, or of a video: there of all its frames together."""
    concepts = maps.concepts
    files = name_files([concepts.names[c] for c in concepts.shown])
    entries = []
    for file, c in zip(files, concepts.shown, strict=True):
        figures = [frame[c] for frame in presence]
        coverages = [round(figure.coverage, 4) for figure in figures]
        entries.append(
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
    return {"concepts": entries, "maps": describe_reading(maps), "masks": asdict(spec)}


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
        c: {"name": concept.name, "colour": concept_colour(c), "hidden": concept.hidden}
        for c, concept in enumerate(concepts.concepts)
    }
    with naming(out / "labels.json"):
        (out / "labels.json").write_text(to_json(names), "utf-8", "backslashreplace")


def draw_palette(labels: LabelMap, concepts: ConceptSet) -> Image.Image:
    """A label map as an image with a palette: its values are the positions of concepts."""
    image = Image.fromarray(labels, mode="P")
    image.putpalette([channel for c in range(len(concepts)) for channel in concept_colour(c)])
    return image
