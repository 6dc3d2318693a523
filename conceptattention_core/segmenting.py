"""Many pictures to masks: what a run does, what is done already, and files that are all or nothing.

The model stays outside: a run is given a function from pictures to maps. One folder per picture is
written beside its place and then moved there, so that what has its name is finished.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import ConceptAttentionError
from .explorer import save_page
from .export import save
from .maps import ConceptMaps
from .masks import MaskSpec
from .pictures import PictureFile, Pixels, read_picture

SETTINGS, REPORT, PARTIAL = "segment.json", "report.json", ".partial"

Locate = Callable[[list[Pixels]], ConceptMaps]
"""From pictures of one size to the maps of all of them, in order."""


@dataclass(frozen=True)
class Outcome:
    """What became of a picture. `error` is empty when its files are written."""

    picture: PictureFile
    error: str = ""


def open_folder(
    out: Path, settings: Mapping[str, Any], overwrite: bool, name: str = SETTINGS
) -> None:
    """Make `out` ready for a run with `settings`; one with the same settings goes on.

    They are kept in a file `name`. Results of other settings are never mixed in and never
    replaced unless `overwrite`.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / name
    earlier = _read_json(file)
    others = [entry for entry in out.iterdir() if not entry.name.endswith(PARTIAL)]
    if earlier is None and others and not overwrite:
        raise ConceptAttentionError(f"{out} is not empty. Name another folder, or add --overwrite.")
    if earlier is not None and earlier != settings and not overwrite:
        changed = [name for name in settings if earlier.get(name) != settings[name]]
        raise ConceptAttentionError(
            f"{out} holds results of other settings ({', '.join(changed)}). "
            "Name another folder, or add --overwrite."
        )
    if earlier != settings:
        _write_json(file, settings)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short name for settings: the same for the same ones."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def list_open(
    pictures: Iterable[PictureFile], out: Path, settings: Mapping[str, Any]
) -> list[PictureFile]:
    """The pictures that are not done yet with these settings."""

    def is_done(picture: PictureFile) -> bool:
        report = _read_json(out / picture.name / REPORT) or {}
        asked = picture.path.name, fingerprint(settings)
        return (report.get("picture"), report.get("settings")) == asked

    return [picture for picture in pictures if not is_done(picture)]


def read_batches(
    pictures: Iterable[PictureFile], size: int
) -> Iterator[tuple[list[PictureFile], list[Pixels]] | Outcome]:
    """Neighbouring pictures of one size, at most `size` at a time; broken ones as outcomes."""
    files: list[PictureFile] = []
    batch: list[Pixels] = []
    for picture in pictures:
        try:
            pixels = read_picture(picture.path)
        except (ConceptAttentionError, OSError) as error:
            yield Outcome(picture, str(error))
            continue
        if batch and (len(batch) == size or batch[0].shape != pixels.shape):
            yield files, batch
            files, batch = [], []
        files.append(picture)
        batch.append(pixels)
    if batch:
        yield files, batch


def segment(
    pictures: Iterable[PictureFile],
    locate: Locate,
    out: Path,
    settings: Mapping[str, Any],
    batch: int = 1,
) -> Iterator[Outcome]:
    """Do all pictures, a few at a time, and tell after each what became of it.

    A picture that cannot be read is an outcome; a disk that is full or a model that fails ends
    the run, and nothing of the picture at hand stays.
    """
    for work in read_batches(pictures, batch):
        if isinstance(work, Outcome):
            yield work
            continue
        files, pixels = work
        maps = locate(pixels)
        for b, (picture, image) in enumerate(zip(files, pixels, strict=True)):
            write(out, picture, image, maps, b, settings)
            yield Outcome(picture)


def write(
    out: Path,
    picture: PictureFile,
    image: Pixels,
    maps: ConceptMaps,
    b: int,
    settings: Mapping[str, Any],
) -> None:
    """The folder of one picture, whole or not at all; `settings["masks"]` are a `MaskSpec`'s."""
    place = out / picture.name
    partial = place.with_name(f"{place.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        found = save(partial, image, maps, b, MaskSpec(**settings["masks"]))
        if settings.get("html"):
            save_page(partial, image, maps, b)
        about = {
            "picture": picture.path.name,
            "height": image.shape[0],
            "width": image.shape[1],
            "settings": fingerprint(settings),
        }
        _write_json(partial / REPORT, {**about, **found})
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConceptAttentionError(f"{file} is no JSON: {error}.") from None


def _write_json(file: Path, value: Any) -> None:
    partial = file.with_name(file.name + PARTIAL)
    partial.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf-8")
    os.replace(partial, file)
