"""Loads the pack the way ComfyUI does, so that tests can import conceptattention.…

What lies in the folders INSIDE_COMFYUI runs in ComfyUI's own Python and has its fixtures.
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACK = "conceptattention"


def load_pack() -> None:
    """Register this repository as the package `conceptattention`, whatever its folder is called.

    Inside ComfyUI only relative imports are valid; under this name they are under test too.
    Loading imports next to nothing: the pack's entry point imports inside itself.
    """
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader, f"{ROOT} holds no pack"
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


if PACK not in sys.modules:
    load_pack()

INSIDE_COMFYUI = ["hosts/comfyui", "nodes", "workflows", "browser"]
"""As run.py has them."""

if (
    "pytest" in sys.modules  # bench imports this file, too, for the pack's name
    and os.environ.get("COMFYUI_PATH")
    and importlib.util.find_spec("comfyui_frontend_package")
):
    from .comfyui.fixtures import *  # noqa: F403
else:  # an environment without ComfyUI's requirements: nothing there can be imported
    collect_ignore = INSIDE_COMFYUI
