"""Tests in a browser run on ComfyUI's own page and on the newest one."""

from collections.abc import Iterator
from typing import Any

import pytest

from ..comfyui.browser import PAGES
from ..comfyui.server import Server
from .common import FRONTENDS, choose, listen


@pytest.fixture(scope="module", params=PAGES)
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=FRONTENDS)
def frontend(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    choose(server, request.param)
    yield request.param
    choose(server, "classic")


@pytest.fixture
def canvas(frontend: str, page: Any) -> Iterator[Any]:
    """ComfyUI's page with one of its frontends; whatever happens there: no complaint."""
    complaints = listen(page, frontend)
    yield page
    assert complaints == []
