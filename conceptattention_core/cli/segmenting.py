"""Many images to masks: what a run does, what is done already, and files that are all or nothing.

The model stays outside: a run is given a function from images to maps. One folder per image is
written beside its place and then moved there; it is finished when all that its report lists is
there.
Any number of processes may work on one folder: each image is claimed by one of them.
"""

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import ConceptAttentionError
from ..files import (
    CLAIMS,
    PARTIAL,
    WAIT,
    Claim,
    claim,
    claimed,
    explain_os_error,
    hash_file,
    have_sizes,
    list_sizes,
    move_files,
    name_partial,
    naming,
    quote,
    read_json,
    remove_files,
    remove_partials,
    sweep_claims,
    sync,
    sync_tree,
    write_json,
)
from ..images import ImageFile, UnreadableKindError, is_out_of_memory, read_image
from ..maps import ConceptMaps
from ..masks import MaskSpec
from ..output.explorer import save_page
from ..output.export import list_masks, save_image_files
from ..pixels import ImageArray

SETTINGS, REPORT = "segment.json", "report.json"
OWN = ("overlay.png", "sheet.png", "labels.png", "labels.json")
ODD_PLACE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
LOOKED_AT = 2**21  # pixels: what fails for want of memory below this fails for every image

Locate = Callable[[list[ImageArray]], ConceptMaps]
"""From images of one size to the maps of all of them, in order."""


@dataclass(frozen=True)
class Outcome:
    """What became of an image. `error` is empty when its files are written."""

    picture: ImageFile
    error: str = ""
    skipped: bool = False
    """Nothing here reads its kind; `error` says what would."""
    elsewhere: bool = False
    """Another run on the same folder has written its files meanwhile."""


def open_folder(
    out: Path, settings: Mapping[str, Any], overwrite: bool, name: str = SETTINGS
) -> None:
    """Make `out` ready for a run with `settings`; one with the same settings goes on.

    They are kept in a file `name`. Results of other settings are never mixed in and never
    replaced unless `overwrite`. Where the file is torn the reports in the folder count.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / name
    sweep_claims(out)
    with claimed(out, name):
        remove_partials(file)
        earlier = read_json(file)
        if not overwrite and earlier != settings:
            _refuse_others(out, file, earlier, settings)
        if earlier != settings:
            write_json(file, settings)


def _refuse_others(out: Path, file: Path, earlier: Any, settings: Mapping[str, Any]) -> None:
    elsewhere = "Name another folder, or add --overwrite."
    if isinstance(earlier, dict):
        changed = [
            name for name in {**settings, **earlier} if earlier.get(name) != settings.get(name)
        ]
        raise ConceptAttentionError(
            f"{quote(out)} holds results of other settings ({', '.join(changed)}). {elsewhere}"
        )
    others = [
        entry
        for entry in out.iterdir()
        if entry != file and entry.name != CLAIMS and not entry.name.endswith(PARTIAL)
    ]
    if not others:
        return
    if not file.exists():
        raise ConceptAttentionError(f"{quote(out)} is not empty. {elsewhere}")
    if file.name != SETTINGS:
        raise ConceptAttentionError(
            f"{quote(file)} is torn: what is in its folder may be of other settings. {elsewhere}"
        )
    asked = fingerprint(settings)
    for place in out.rglob(REPORT):
        report = read_json(place)
        if isinstance(report, dict) and report.get("settings", asked) != asked:
            raise ConceptAttentionError(
                f"{quote(file)} is torn and {quote(place)} is of other settings. {elsewhere}"
            )


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short name for settings: the same for the same ones."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def list_open(
    pictures: Iterable[ImageFile], out: Path, settings: Mapping[str, Any]
) -> list[ImageFile]:
    """The images that are not done yet with these settings."""
    return [picture for picture in pictures if not is_done(picture, out, settings)]


def is_done(picture: ImageFile, out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether an image of this content was done with these settings and its files are there."""
    folder = out / picture.name
    report = read_json(folder / REPORT)
    if not isinstance(report, dict) or report.get("settings") != fingerprint(settings):
        return False
    try:
        if "content" in report:
            is_whole = have_sizes(folder, report.get("files"))
            return is_whole and report["content"] == hash_file(picture.path)
        return _is_done_by_earlier_version(picture, folder, report, bool(settings.get("html")))
    except (OSError, ConceptAttentionError):
        return False  # whoever reads it says why


def _is_done_by_earlier_version(
    picture: ImageFile, folder: Path, report: dict[str, Any], html: bool
) -> bool:
    """Version 0.1.0 named the image's file and listed masks alone."""
    try:
        files = [*(f"{name}.png" for name in list_masks(report)), *OWN]
    except (KeyError, TypeError, AttributeError, IndexError):
        return False
    files += ["explorer.html"] if html else []
    return (
        report.get("picture") == picture.path.name
        and picture.path.stat().st_mtime <= (folder / REPORT).stat().st_mtime
        and all((folder / file).stat().st_size for file in files)
    )


def read_batches(
    pictures: Iterable[ImageFile | Outcome], size: int
) -> Iterator[tuple[list[ImageFile], list[ImageArray]] | Outcome]:
    """Neighbouring images of one size, at most `size` at a time; broken ones as outcomes."""
    files: list[ImageFile] = []
    batch: list[ImageArray] = []
    for picture in pictures:
        if isinstance(picture, Outcome):
            yield picture
            continue
        try:
            # the hash comes first: who changes the image from now on has it done again
            picture = replace(picture, content=hash_file(picture.path))
            pixels = read_image(picture.path)
        except OSError as error:
            yield Outcome(picture, explain_os_error(error))
            continue
        except ConceptAttentionError as error:
            yield Outcome(picture, str(error), skipped=isinstance(error, UnreadableKindError))
            continue
        if batch and (len(batch) == size or batch[0].shape != pixels.shape):
            yield files, batch
            files, batch = [], []
        files.append(picture)
        batch.append(pixels)
        del pixels
    if batch:
        yield files, batch


def segment_images(
    pictures: Iterable[ImageFile],
    locate: Locate,
    out: Path,
    settings: Mapping[str, Any],
    batch: int = 1,
) -> Iterator[Outcome]:
    """Do all images, a few at a time, and yield after each what became of it.

    An image that cannot be read, or is too large for the memory, is an outcome; a disk that is
    full or a model that fails ends the run, and nothing of the image at hand stays. What other
    processes have claimed comes last: it is waited for, and done where they did not.
    """
    waiting = list(pictures)
    held: dict[str, Claim] = {}
    try:
        while waiting:
            busy: list[ImageFile] = []
            for work in read_batches(_claim(waiting, out, settings, held, busy), batch):
                if isinstance(work, Outcome):
                    outcomes = iter([work])
                else:
                    outcomes = _segment_batch(*work, locate, out, settings)
                for outcome in outcomes:
                    if mine := held.pop(outcome.picture.name, None):
                        mine.release()
                    yield outcome
            if len(busy) == len(waiting):
                time.sleep(WAIT)
            waiting = busy
    finally:
        for mine in held.values():
            mine.release()


def _claim(
    pictures: list[ImageFile],
    out: Path,
    settings: Mapping[str, Any],
    held: dict[str, Claim],
    busy: list[ImageFile],
) -> Iterator[ImageFile | Outcome]:
    """The images that this process may do; those that others are at go to `busy`."""
    for picture in pictures:
        mine = claim(out, picture.name)
        if mine is None:
            busy.append(picture)
            continue
        held[picture.name] = mine
        if is_done(picture, out, settings):
            yield Outcome(picture, elsewhere=True)
            continue
        if mine.alone:
            remove_partials(out / picture.name)
        yield picture


def _segment_batch(
    files: list[ImageFile],
    pixels: list[ImageArray],
    locate: Locate,
    out: Path,
    settings: Mapping[str, Any],
) -> Iterator[Outcome]:
    try:
        maps = locate(pixels)
    except Exception as error:
        h, w = pixels[0].shape[:2]
        if not is_out_of_memory(error) or (len(files) == 1 and h * w <= LOOKED_AT):
            raise
        if len(files) == 1:
            yield Outcome(files[0], _explain_too_large(files[0], pixels[0]))
            return
        maps = None
    if maps is None:  # outside of the handler, which keeps what filled the memory
        for picture, image in zip(files, pixels, strict=True):
            yield from _segment_batch([picture], [image], locate, out, settings)
        return
    for b, (picture, image) in enumerate(zip(files, pixels, strict=True)):
        try:
            write_image_files(out, picture, image, maps, b, settings)
        except ConceptAttentionError as error:
            yield Outcome(picture, f"{quote(picture.path)}: {error}")
        except OSError as error:
            if error.errno not in ODD_PLACE:
                raise
            yield Outcome(picture, f"{quote(picture.path)}: {explain_os_error(error)}")
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            yield Outcome(picture, _explain_too_large(picture, image))
        else:
            yield Outcome(picture)


def _explain_too_large(picture: ImageFile, image: ImageArray) -> str:
    h, w = image.shape[:2]
    return f"{quote(picture.path)}: {w} x {h} pixels are more than the memory here has room for."


def write_image_files(
    out: Path,
    picture: ImageFile,
    image: ImageArray,
    maps: ConceptMaps,
    b: int,
    settings: Mapping[str, Any],
) -> None:
    """The folder of one image, whole or not at all; `settings["masks"]` are a `MaskSpec`'s.

    `settings["full_size"]` also has overlay and sheet in the image's size.
    """
    place = out / picture.name
    partial = name_partial(place)
    try:
        with naming(place):
            maps, spec = maps.of_image(b), MaskSpec(**settings["masks"])
            full_size = bool(settings.get("full_size"))
            found = save_image_files(partial, image, maps, spec, full_size)
            if settings.get("html"):
                save_page(partial, image, maps)
            about = {
                "picture": quote(picture.path.name),
                "content": picture.content or hash_file(picture.path),
                "height": image.shape[0],
                "width": image.shape[1],
                "settings": fingerprint(settings),
            }
            report = {**about, **found, "files": list_sizes(partial)}
            write_json(partial / REPORT, report)
            sync_tree(partial)
            install(partial, place, report)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def install(partial: Path, place: Path, report: dict[str, Any]) -> None:
    """Move a finished folder to its place; of what is there only an earlier result of ours goes.

    Where the place holds other things, such as the results of images in a folder of this name,
    files are moved one by one, the report last. Until then a report stands there that lists what
    was and what comes, and counts as done for nobody.
    """
    try:
        if not place.is_dir() or not any(place.iterdir()):
            partial.rename(place)
            sync(place.parent)
            return
    except OSError:
        if not place.is_dir():
            raise
    earlier = read_json(place / REPORT)
    old = earlier.get("files") if isinstance(earlier, dict) else None
    if not isinstance(old, dict):
        try:
            masks = list_masks(earlier) if isinstance(earlier, dict) else []
        except (KeyError, TypeError, AttributeError, IndexError):
            masks = []
        old = dict.fromkeys([*(f"{name}.png" for name in masks), *OWN], 0)
    write_json(place / REPORT, {"settings": "", "files": {**old, **report["files"]}})
    remove_files(place, [name for name in old if name not in report["files"]])
    move_files(partial, place, [*report["files"], REPORT])
