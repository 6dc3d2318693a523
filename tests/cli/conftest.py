"""Fixtures of this folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..hosts.diffusers.tiny import save_tiny_flux


@pytest.fixture
def folder(tmp_path):
    """Five pictures of two sizes, one of them broken."""
    pictures = tmp_path / "in"
    pictures.mkdir()
    for i in range(5):
        size = (64, 48) if i < 3 else (50, 70)
        Image.fromarray(np.full((*size[::-1], 3), 40 * i, np.uint8)).save(pictures / f"{i}.png")
    (pictures / "1.png").write_text("broken")
    return pictures


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Flux."""
    return save_tiny_flux(tmp_path_factory.mktemp("model"))


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Path:
    """The toy model folder once more, for a test to write into."""
    folder = tmp_path / "own"
    folder.mkdir()
    for part in model.iterdir():
        (folder / part.name).symlink_to(part)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for n, size in enumerate([(90, 70), (90, 70), (40, 130)]):
        noise = np.random.default_rng(n).integers(0, 255, (*size[::-1], 3), np.uint8)
        Image.fromarray(noise).save(folder / f"photo {n}.png")
    return folder
