"""Loads the pack the way ComfyUI does, so that tests can import conceptattention.…"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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
