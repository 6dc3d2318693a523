"""Fixtures of this folder."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conceptattention.conceptattention_core.maps import ReadSpec, read_maps
from conceptattention.conceptattention_core.output import explorer
from conceptattention.conceptattention_core.recording import Recording

from .common import CHROMIUM, FLAGS, Open


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium here; COMFYUI_BROWSER names one")
    with playwright.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens what the explorer writes. Whatever happens there: no complaint and no request."""
    complaints, requests, contexts = [], [], []

    def opened(image: np.ndarray, recording: Recording, title: str = "Concepts", **context: Any):
        file, maps = tmp_path / "explorer.html", read_maps(recording, ReadSpec(blocks="all"))
        file.write_text(explorer.make_page(image, maps, title=title), encoding="utf-8")
        contexts.append(browser.new_context(offline=True, **context))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        page.locator("#concepts li").nth(len(recording.concepts) - 1).wait_for(state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not re.match("(file|data|blob):", url)] == []
