"""Fixtures of this folder."""

from pathlib import Path

import folder_paths
import pytest
from conceptattention.nodes.masks import Pick

from .common import HALVES, run, territories


@pytest.fixture
def mask():
    """The cat of two pictures: its left half, and its right half."""
    return run(Pick, maps=territories(HALVES, [[1, 1, 0, 0]] * 4), name="cat")[0]


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    """An output folder of this test's own."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


@pytest.fixture
def psd_tools():
    return pytest.importorskip("psd_tools")
