"""The version of this package, which is written once: in pyproject.toml."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NAME = "conceptattention"


def read_version() -> str:
    """The version as in "0.1.0".

    A clone, and a folder in ComfyUI's custom_nodes, have pyproject.toml beside the package and may
    be newer than what is installed; an installed package has its metadata alone.
    """
    try:
        text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    except OSError:
        text = ""
    if f'\nname = "{NAME}"\n' in text and (found := re.search(r'^version = "(.+)"', text, re.M)):
        return found[1]
    try:
        return version(NAME)
    except PackageNotFoundError:  # a copy of the folder alone
        return "unknown"
