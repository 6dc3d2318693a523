"""Images with true masks: the data sets of the paper in their published formats.

A data set is a function from where it lies to its samples, in a fixed order, read one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import ConceptAttentionError
from ..files import check_regular, quote
from ..images import read_image
from ..pixels import ImageArray
from .metrics import IGNORE

VOC_CLASSES = (
    *("plane", "bike", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table"),
    *("dog", "horse", "motorcycle", "person", "pot", "sheep", "sofa", "train", "monitor"),
)
"""The words that the paper uses for labels 1 to 20."""


@dataclass(frozen=True)
class Sample:
    """An image and what is where.

    labels: uint8, h w; 0 is background, IGNORE is not judged, others are keys of `classes`
    classes: label -> the word for it, of what is in this image
    """

    key: str
    image: ImageArray
    labels: np.ndarray
    classes: dict[int, str]


@dataclass(frozen=True)
class Dataset:
    """Keys of all samples in order, and how to read one."""

    keys: tuple[str, ...]
    read: Callable[[str], Sample]

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, self.keys)

    def __len__(self) -> int:
        return len(self.keys)


# --- PASCAL VOC 2012 ------------------------------------------------------------------------------


def open_voc(path: Path) -> Dataset:
    """The segmentation part of the validation set, in a devkit folder."""
    root = _find_voc(path)
    names = _read_text(root / "ImageSets/Segmentation/val.txt").split()

    def read(key: str) -> Sample:
        image = read_image(root / "JPEGImages" / f"{key}.jpg")
        labels = _read_labels(root / "SegmentationClass" / f"{key}.png", image.shape[:2])
        present = [label for label in np.unique(labels).tolist() if label not in (0, IGNORE)]
        if any(label > len(VOC_CLASSES) for label in present):
            raise ConceptAttentionError(
                f"{key}.png has labels {present}; VOC2012 knows 0 to {len(VOC_CLASSES)} "
                f"and {IGNORE}."
            )
        return Sample(key, image, labels, {label: VOC_CLASSES[label - 1] for label in present})

    return Dataset(tuple(names), read)


def _find_voc(path: Path) -> Path:
    for root in (path, path / "VOC2012", path / "VOCdevkit/VOC2012"):
        if (root / "ImageSets/Segmentation/val.txt").is_file():
            return root
    raise ConceptAttentionError(
        f"{path} is no VOC2012 devkit: it has no ImageSets/Segmentation/val.txt, nor has a folder "
        "VOC2012 in it."
    )


def _read_text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConceptAttentionError(
            f"{quote(file)} is no text in UTF-8: byte {error.start} is {error.object[error.start]}."
        ) from None


def _read_labels(file: Path, size: tuple[int, ...]) -> np.ndarray:
    check_regular(file)
    try:
        with Image.open(file) as picture:
            mode, labels = picture.mode, np.asarray(picture)
    except Exception as error:  # decoders raise whatever their parsing met
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error) or type(error).__name__
        raise ConceptAttentionError(f"{quote(file)} is broken: {reason}") from None
    if mode not in ("P", "L"):
        raise ConceptAttentionError(
            f"{file} should hold one label per pixel (mode P or L); its mode is {mode}."
        )
    if labels.shape != size:
        raise ConceptAttentionError(
            f"{file} has {labels.shape[0]} x {labels.shape[1]} labels for a picture of "
            f"{size[0]} x {size[1]} pixels."
        )
    return labels


# --- ImageNet-Segmentation ------------------------------------------------------------------------


def open_imagenet_segmentation(path: Path, names: Path | None = None) -> Dataset:
    """The file gtsegs_ijcv.mat (HDF5): images with one foreground each.

    Its images carry WordNet ids; `names` is a text file of lines "n01440764 tench, Tinca tinca"
    (ImageNet's LOC_synset_mapping.txt), else nltk's WordNet is asked.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise ConceptAttentionError(
            "This data set needs h5py: pip install 'conceptattention[evaluation]'"
        ) from None
    file = path / "gtsegs_ijcv.mat" if path.is_dir() else path
    try:
        data: Any = h5py.File(file, "r")
        count = len(data["/value/img"])
    except FileNotFoundError:
        raise ConceptAttentionError(f"There is no {file}.") from None
    except Exception as error:  # HDF5 raises whatever its parsing met
        raise ConceptAttentionError(f"{file} is no whole gtsegs_ijcv.mat: {error}") from None
    name_of = _wordnet_names(names)

    def read(key: str) -> Sample:
        index = int(key)
        try:
            image = np.asarray(_follow(data, "/value/img", index)).transpose(2, 1, 0)
            mask = np.asarray(_follow(data, "/value/gt", index))
            if mask.dtype == object:  # a cell in a cell
                mask = np.asarray(data[mask.flat[0]])
            wordnet_id = "".join(map(chr, np.asarray(_follow(data, "/value/id", index)).flat))
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"its pixels are {image.dtype}, {image.shape}")
        except Exception as error:  # HDF5 raises whatever its parsing met
            raise ConceptAttentionError(f"{file} is damaged at picture {key}: {error}") from None
        labels = (mask.T > 0).astype(np.uint8)
        if labels.shape != image.shape[:2]:
            raise ConceptAttentionError(
                f"{file}: the mask of picture {key} is {labels.shape[0]} x {labels.shape[1]}, "
                f"its picture {image.shape[0]} x {image.shape[1]}."
            )
        return Sample(key, np.ascontiguousarray(image), labels, {1: name_of(wordnet_id)})

    return Dataset(tuple(map(str, range(count))), read)


def _follow(data: Any, name: str, index: int) -> Any:
    """What the reference at `index` of a column of references leads to."""
    return data[np.asarray(data[name])[index, 0]]


def _wordnet_names(names: Path | None) -> Callable[[str], str]:
    """From "n01440764" (also with more after it) to its first name, in plain words."""
    if names is not None:
        lines = [line.partition(" ") for line in _read_text(names).splitlines() if line]
        known = {key: name for key, _, rest in lines if (name := rest.split(",")[0].strip())}

        def look_up(wordnet_id: str) -> str:
            try:
                return known[wordnet_id.split("_")[0]]
            except KeyError:
                raise ConceptAttentionError(f"{names} has no name for {wordnet_id}.") from None

        return look_up
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ModuleNotFoundError, LookupError):
        raise ConceptAttentionError(
            "The pictures of ImageNet-Segmentation carry WordNet ids. Give their names with "
            "--names FILE (lines 'n01440764 tench, Tinca tinca', such as ImageNet's "
            "LOC_synset_mapping.txt), or install nltk with its WordNet data."
        ) from None

    def ask(wordnet_id: str) -> str:
        try:
            offset = int(wordnet_id.split("_")[0][1:])
            synset = wordnet.synset_from_pos_and_offset("n", offset)
            return synset.lemma_names()[0].replace("_", " ")
        except Exception:  # nltk raises what its file gives
            raise ConceptAttentionError(f"WordNet has no noun {wordnet_id!r}.") from None

    return ask
