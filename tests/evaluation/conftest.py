"""Fixtures of this folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..hosts.diffusers.tiny import save_tiny_flux
from .common import CAT, IGNORE, PERSON, save_labels


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Flux."""
    return save_tiny_flux(tmp_path_factory.mktemp("model"))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A devkit of three pictures: a cat, a cat and a person, a person."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    shown = {"2007_1": (CAT,), "2007_2": (CAT, PERSON), "2007_3": (PERSON,)}
    for n, (name, classes) in enumerate(shown.items()):
        noise = np.random.default_rng(n).integers(0, 255, (90, 120, 3), np.uint8)
        Image.fromarray(noise).save(root / "JPEGImages" / f"{name}.jpg")
        labels = np.zeros((90, 120), np.uint8)
        for place, label in enumerate(classes):
            labels[20:60, 10 + 50 * place : 50 + 50 * place] = label
            labels[20:24, 10 + 50 * place : 50 + 50 * place] = IGNORE
        save_labels(labels, root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(shown) + "\n")
    return tmp_path


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """gtsegs_ijcv.mat with two pictures, as MATLAB 7.3 writes cells."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "gtsegs_ijcv.mat", "w") as file:
        columns = {name: [] for name in ("img", "gt", "id")}
        for n, wordnet_id in enumerate(("n01440764_1", "n02123045_7")):
            image = np.random.default_rng(n).integers(0, 255, (60 + n, 80, 3), np.uint8)
            mask = np.zeros((60 + n, 80), np.uint8)
            mask[10:30, 20:60] = 1
            inner = file.create_dataset(f"#refs#/mask{n}", data=mask.T)
            cell = file.create_dataset(f"#refs#/cell{n}", (1, 1), dtype=h5py.ref_dtype)
            cell[0, 0] = inner.ref
            letters = np.array([[ord(letter)] for letter in wordnet_id], np.uint16)
            columns["img"].append(file.create_dataset(f"#refs#/image{n}", data=image.T))
            columns["gt"].append(cell)
            columns["id"].append(file.create_dataset(f"#refs#/id{n}", data=letters))
        for name, items in columns.items():
            column = file.create_dataset(f"value/{name}", (len(items), 1), dtype=h5py.ref_dtype)
            for n, item in enumerate(items):
                column[n, 0] = item.ref
    (tmp_path / "names.txt").write_text(
        "n01440764 tench, Tinca tinca\nn02123045 tabby, tabby cat\n"
    )
    return tmp_path
