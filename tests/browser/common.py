"""ComfyUI's pages and the frontends that each of them has."""

from typing import Any

import pytest

from ..comfyui.browser import NEWEST
from ..comfyui.server import Server

FRONTENDS = ["classic", "Nodes 2.0"]
SHOWN_BY = [("bundled_server", "classic"), (NEWEST, "Nodes 2.0")]
"""Both pages and both frontends, but not each with each, which takes minutes."""

on_both = pytest.mark.parametrize(("server", "frontend"), SHOWN_BY, indirect=True)


def choose(server: Server, frontend: str) -> None:
    server.settings(Comfy__VueNodes__Enabled=frontend != "classic")


def listen(page: Any, frontend: str) -> list[str]:
    """The errors of a page from now on."""
    setting = page.evaluate("app.extensionManager.setting.settings['Comfy.VueNodes.Enabled']?.type")
    if frontend != "classic" and setting != "boolean":
        pytest.skip("this ComfyUI does not offer Nodes 2.0 yet")
    complaints: list[str] = []
    page.on("console", lambda said: blames_us(said) and complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


def blames_us(said: Any) -> bool:
    """Whether it is an error, and not that the page itself reaches for a network."""
    network = ("Content Security Policy", "ERR_NAME_NOT_RESOLVED")
    return said.type == "error" and not any(name in said.text for name in network)
