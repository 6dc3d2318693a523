"""Fixtures of the tests that run inside ComfyUI, in its own Python: `python run.py test`.

COMFYUI_PATH names one ComfyUI. Test modules may import its modules (`import comfy.sd`) and the
pack (`from conceptattention.nodes import ...`) at their top: this file prepares both.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .browser import opened
from .server import Server, make_torchaudio_stand_in

__all__ = [
    "_browser",
    "_folders",
    "bundled_server",
    "comfy",
    "newest_server",
    "pack_nodes",
    "page",
    "server",
    "use_comfyui",
]

COMFYUI = os.environ["COMFYUI_PATH"]


def use_comfyui() -> None:
    """Make ComfyUI's modules importable; on the CPU unless there is a CUDA device."""
    sys.path.insert(0, COMFYUI)
    # For bench. Behind ComfyUI's own folder: before it our nodes/ would hide its nodes.py.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    import comfy.cli_args
    import torch

    if not torch.cuda.is_available():
        # Has to be set before comfy.model_management is imported, which looks for a GPU.
        comfy.cli_args.args.cpu = True


use_comfyui()


@pytest.fixture(scope="session", autouse=True)
def _folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nodes that run in this process write to a temporary folder, not to the user's ComfyUI."""
    import folder_paths

    folder = tmp_path_factory.mktemp("in-process")
    for kind in ("input", "output", "temp", "user"):
        (folder / kind).mkdir()
        getattr(folder_paths, f"set_{kind}_directory")(str(folder / kind))


@pytest.fixture(scope="session")
def comfy(_folders: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ComfyUI's package `comfy` in this process, on the CPU unless there is a CUDA device."""
    if stand_in := make_torchaudio_stand_in(tmp_path_factory.mktemp("stand-in")):
        sys.path.append(str(stand_in))
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sample
    import comfy.sd
    import comfy.supported_models
    import comfy.utils

    return comfy


@pytest.fixture(scope="session")
def pack_nodes(comfy: Any) -> dict[str, Any]:
    """The pack's node classes by id, as ComfyUI gets them from the entry point."""
    import conceptattention

    async def classes() -> list[Any]:
        extension = await conceptattention.comfy_entrypoint()
        return await extension.get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(classes())}


@pytest.fixture(scope="session")
def bundled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """A running ComfyUI server with this pack; see the class Server."""
    running = Server(Path(COMFYUI), tmp_path_factory.mktemp("comfyui") / "base")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def newest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """The same with the newest page instead of the one that this ComfyUI brings."""
    page = os.environ.get("COMFYUI_FRONTEND")
    if not page:
        pytest.skip("no newer page here; COMFYUI_FRONTEND names the folder of one")
    folder = tmp_path_factory.mktemp("newest-page") / "base"
    running = Server(Path(COMFYUI), folder, "--front-end-root", page)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def server(bundled_server: "Server") -> "Server":
    """The server of all tests but those in a browser, which also meet the newest page."""
    return bundled_server


CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# Not for the whole session: as long as it is open, asyncio.run is not allowed in this thread.
@pytest.fixture(scope="module")
def _browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = os.environ.get("COMFYUI_BROWSER")
    if not chromium:
        pytest.skip("no Chromium here; COMFYUI_BROWSER names one")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(server: "Server", _browser: Any) -> Iterator[Any]:
    """ComfyUI's page in a browser, ready to use, as playwright's Page."""
    with opened(server, _browser) as page:
        yield page
