"""Picture files: which ones there are, and their pixels."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from . import ConceptAttentionError
from .export import file_names

Pixels = np.ndarray
"""uint8, h w rgb."""


@dataclass(frozen=True)
class PictureFile:
    path: Path
    name: str
    """A safe, relative path without ending, its own among its fellows: what to call results."""


def list_pictures(paths: Iterable[Path]) -> list[PictureFile]:
    """The pictures at `paths`; of a folder all that have a picture's ending, subfolders too."""
    found: list[tuple[Path, Path]] = []  # the file, and its path from what was asked for
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if _has_pictures_ending(file))
            found += [(file, file.relative_to(path)) for file in inside]
        elif path.exists():
            found.append((path, Path(path.name)))
        else:
            raise ConceptAttentionError(f"There is no picture or folder {path}.")
    if not found:
        raise ConceptAttentionError(f"No pictures in {', '.join(map(str, paths))}.")
    safe = {
        file: [file_names([part])[0] for part in place.with_suffix("").parts]
        for file, place in found
    }
    folders = {"/".join(parts[:n]).casefold() for parts in safe.values() for n in range(len(parts))}
    pictures: dict[str, PictureFile] = {}
    for file, parts in safe.items():
        name = "/".join(parts)
        if name.casefold() in folders | pictures.keys():
            name += f"_{file.suffix[1:]}"
        stem, n = name, 2
        while name.casefold() in folders | pictures.keys():
            name, n = f"{stem}_{n}", n + 1
        pictures[name.casefold()] = PictureFile(file, name)
    return list(pictures.values())


def _has_pictures_ending(file: Path) -> bool:
    endings = Image.registered_extensions()
    return endings.get(file.suffix.lower()) in Image.OPEN and not file.name.startswith(".")


def read_picture(path: Path) -> Pixels:
    """A picture file as it is meant to be seen: turned upright, what is transparent is white."""
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode in ("I;16", "I;16B", "I;16L", "I"):  # 16 bits of grey
                grey = np.asarray(picture).astype(np.int64) // 257
                picture = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
            if picture.mode == "F":
                raise ConceptAttentionError(
                    f"{path} holds floating-point values of no stated range; save it with 8 or "
                    "16 bits."
                )
            if picture.has_transparency_data:
                seen = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConceptAttentionError(f"{path} is no picture that can be read: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:  # how Pillow reports broken files
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ConceptAttentionError(f"{path} is broken: {error}") from None


def stack(pictures: list[Pixels]) -> Tensor:
    """Pictures of one size as `b rgb h w`, 0..1."""
    return torch.stack([torch.from_numpy(one.copy()).permute(2, 0, 1) for one in pictures]) / 255
