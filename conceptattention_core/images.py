"""Image files: which ones there are, and their pixels."""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from . import ConceptAttentionError
from .files import CLAIMS, PARTIAL, check_regular, quote, read_json
from .pixels import ImageArray
from .texts import name_files

NEED_A_PACKAGE = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif"),
    ".avif": "pillow 11.3 or later",
}
"""Endings of images that Pillow reads only with something else, and with what."""
DRAWN = ("masks", "heatmaps", "overlay", "sheet", "labels")
"""What is written beside an image, as files and as folders of a video's frames."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by EXIF's orientation."""
ORIENTATION, BITS, SAMPLE_FORMAT, SIGNED = 0x0112, 258, 339, 2  # tags of EXIF and TIFF


class UnreadableKindError(ConceptAttentionError):
    """An image of a kind that needs a package which is not here."""


@dataclass(frozen=True)
class ImageFile:
    path: Path
    name: str
    """A safe, relative path without ending, its own among its fellows: what to call results."""
    content: str = ""
    """A hash of the file, once it was read."""


def list_images(paths: Iterable[Path], without: Path | None = None) -> list[ImageFile]:
    """The images at `paths`; of a folder all that have an image's ending, subfolders too.

    What a run has written is left out: the folder `without` where it lies inside, any other
    folder of results, and the files that a report lists.
    """
    found: list[tuple[Path, Path]] = []  # the file, and its path from what was asked for
    for path in paths:
        if path.is_dir():
            inside = sorted(_walk(path, without and without.resolve()))
            found += [(file, file.relative_to(path)) for file in inside]
        elif path.exists():
            found.append((path, Path(path.name)))
        else:
            raise ConceptAttentionError(f"There is no picture or folder {quote(path)}.")
    if not found:
        raise ConceptAttentionError(f"No pictures in {', '.join(map(quote, paths))}.")
    safe = {
        file: [name_files([part])[0] for part in place.with_suffix("").parts]
        for file, place in found
    }
    folders = {"/".join(parts[:n]).casefold() for parts in safe.values() for n in range(len(parts))}
    images: dict[str, ImageFile] = {}
    for file, parts in safe.items():
        name = "/".join(parts)
        if name.casefold() in folders | images.keys():
            name += f"_{file.suffix[1:]}"
        stem, n = name, 2
        while name.casefold() in folders | images.keys():
            name, n = f"{stem}_{n}", n + 1
        images[name.casefold()] = ImageFile(file, name)
    return list(images.values())


def _walk(top: Path, without: Path | None) -> Iterator[Path]:
    """The files below `top` that have an image's ending and are nobody's results."""
    result_folders: set[Path] = set()
    for name, folders, files in os.walk(top):
        folder = Path(name)
        results = folder.resolve() == without or "segment.json" in files
        if results and folder != top:
            folders.clear()
            continue
        folders[:] = [one for one in folders if one != CLAIMS and not one.endswith(PARTIAL)]
        report = read_json(folder / "report.json") if "report.json" in files else None
        result_folders |= _list_results(folder, report)
        if folder in result_folders:
            folders[:] = [one for one in folders if one not in DRAWN]
            files = [one for one in files if Path(one).stem not in DRAWN]
        yield from (folder / one for one in files if _has_image_ending(folder / one))


def _list_results(folder: Path, report: Any) -> set[Path]:
    """The folders that a report lists: that of an image, or those of what was generated."""
    if not isinstance(report, dict):
        return set()
    if "settings" in report:
        return {folder}
    made = report.get("pictures") or report.get("videos")
    found = made if isinstance(made, list) else []
    return {
        folder / str(one["folder"]) for one in found if isinstance(one, dict) and "folder" in one
    }


def _has_image_ending(file: Path) -> bool:
    endings, ending = _find_endings(), file.suffix.lower()
    is_picture = endings.get(ending) in Image.OPEN or ending in NEED_A_PACKAGE
    return is_picture and not file.name.startswith(".")


@lru_cache(maxsize=1)
def _find_endings() -> dict[str, str]:
    """Pillow's kinds by ending, with HEIC where its package is installed."""
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]

        register_heif_opener()
    except ImportError:
        pass
    return Image.registered_extensions()


def read_image(path: Path) -> ImageArray:
    """An image file as it is meant to be seen: in sRGB, upright, what is transparent is white.

    Raises ConceptAttentionError with the file's name for whatever cannot be read or is too large
    for the memory, OSError where the disk fails.
    """
    ending = path.suffix.lower()
    if ending in NEED_A_PACKAGE and _find_endings().get(ending) not in Image.OPEN:
        raise UnreadableKindError(
            f"{quote(path)} was skipped: {ending[1:].upper()} is read with "
            f"{NEED_A_PACKAGE[ending]}."
        )
    check_regular(path)
    try:
        with Image.open(path) as file:
            return _convert(file, path)
    except ConceptAttentionError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = str(error).replace(repr(str(path)), "its content")
        raise ConceptAttentionError(
            f"{quote(path)} is no picture that can be read: {_encodable(reason)}"
        ) from None
    except Exception as error:  # decoders raise whatever their parsing met
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if is_out_of_memory(error):
            raise ConceptAttentionError(
                f"{quote(path)} is larger than the memory here has room for."
            ) from None
        reason = _encodable(str(error)) or type(error).__name__
        raise ConceptAttentionError(f"{quote(path)} is broken: {reason}") from None


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or OpenCV says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, cv2.error):
        return getattr(error, "code", 0) == -4 or "Insufficient memory" in str(error)
    text = str(error).lower()
    return isinstance(error, RuntimeError) and "memory" in text and "alloc" in text


def _convert(file: Image.Image, path: Path) -> ImageArray:
    file.load()  # first: of some kinds this turns them upright
    picture = file
    if picture.mode == "F":
        raise ConceptAttentionError(
            f"{quote(path)} holds floating-point values of no stated range; save it with 8 or "
            "16 bits."
        )
    profile, turn = picture.info.get("icc_profile"), _find_turn(picture)
    if picture.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        picture = _to_8_bits(picture)
    if picture.has_transparency_data:
        converted = picture.convert("RGBA")
        colours = _to_srgb(converted.convert("RGB"), profile)
        colours.putalpha(converted.getchannel("A"))
        picture = Image.alpha_composite(Image.new("RGBA", converted.size, "white"), colours)
    else:
        picture = _to_srgb(picture, profile)
    picture = picture.convert("RGB")
    return np.asarray(picture if turn is None else picture.transpose(turn))


def _find_turn(picture: Image.Image) -> Image.Transpose | None:
    """What turns an image upright; one whose EXIF is broken stays as it lies."""
    try:
        return TURNS.get(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # its parser raises whatever it met
        return None


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits in 8. Of 32 as many count as the brightest pixel needs: 8, 16 or 32."""
    tags = getattr(picture, "tag_v2", {})
    values = np.asarray(picture)
    bits = 16
    if picture.mode == "I" and tags.get(BITS, (16,))[0] == 32:
        if SIGNED not in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)):
            values = values.view(np.uint32)
        bits = next(n for n in (8, 16, 32) if int(values.max()) < 2**n)
    grey = values.astype(np.int64) // ((2**bits - 1) // 255)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours of an image as sRGB; a profile that is broken or does not fit counts as none."""
    if not profile:
        return picture
    if picture.mode not in ("RGB", "L", "CMYK"):
        picture = picture.convert("RGB")
    try:
        own = ImageCms.getOpenProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(own).lower():
            return picture
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, own, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    return picture if converted is None else converted


def stack_images(images: list[ImageArray]) -> Tensor:
    """Images of one size as `b rgb h w`, 0..1."""
    return torch.stack([torch.from_numpy(one.copy()).permute(2, 0, 1) for one in images]) / 255
