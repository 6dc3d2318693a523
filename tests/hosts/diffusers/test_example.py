"""The example under `record` runs as it is written, on the demo model."""

import inspect
import runpy
import textwrap
from collections.abc import Callable
from pathlib import Path

from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from PIL import Image

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())


def read_example(function: Callable) -> str:
    """The block that follows a docstring's first `::`."""
    _, after = (inspect.getdoc(function) or "").split("::\n", 1)
    lines = after.splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if line.strip() and not line.startswith("    "))
    return textwrap.dedent("".join(lines[:end]))


def test_the_example_under_record_ends_in_an_overlay(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    example = read_example(record)
    for written, run in (
        ("width=128)", "width=128, num_inference_steps=2)"),
        ("maps.overlay(image)", "shown = maps.overlay(image)"),
    ):
        assert example.count(written) == 1
        example = example.replace(written, run)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert isinstance(names["shown"], Image.Image) and names["shown"].width == 128
    assert names["maps"].concepts.names == ("dragon", "rock", "sky")
