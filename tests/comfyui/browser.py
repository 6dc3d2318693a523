"""What a user does on ComfyUI's page, for playwright's Page."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientResponseError

DROP = """([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, {type: "application/json"}));
    const canvas = document.querySelector("#graph-canvas");
    for (const type of ["dragenter", "dragover", "drop"]) {
        const at = {clientX: 600, clientY: 400, bubbles: true, cancelable: true};
        canvas.dispatchEvent(new DragEvent(type, {dataTransfer: data, ...at}));
    }
}"""
# Of a node: drawn on the classic canvas, elements of the page in Nodes 2.0.
PICTURES = """node => LiteGraph.vueNodesMode
    ? [...document.querySelectorAll(`[data-node-id="${node.id}"] img`)] : node.imgs ?? []"""
KINDS = "app.graph.nodes.map(node => node.type).join()"
IDLE = "!document.querySelector('.p-blockui-mask')"  # while it loads, the page is covered
# Older pages have a group of buttons under this name, newer ones the button itself.
RUN = 'button[data-testid="queue-button"], [data-testid="queue-button"] button'


RUN_SECONDS = 180

NEWEST = "newest_server" if os.environ.get("COMFYUI_FRONTEND") else "bundled_server"
PAGES = list(dict.fromkeys(["bundled_server", NEWEST]))
"""Servers with the page that a ComfyUI brings, and with the newest where there is one."""

NO_JOBS = {"jobs": [], "pagination": {"offset": 0, "limit": 200, "total": 0, "has_more": False}}


@contextmanager
def opened(server: Any, browser: Any) -> Iterator[Any]:
    """ComfyUI's page, ready to use, as playwright's Page."""
    # what would cover the canvas: a tutorial, and a map in the corner that comes when it likes
    server.settings(Comfy__TutorialCompleted=True, Comfy__Minimap__Visible=False)
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(120_000)  # busy machines; nothing here waits without need
    page = context.new_page()
    if not has_jobs(server):  # an older ComfyUI: what the newest page misses is not ours to mend
        page.route("**/api/jobs?*", lambda route: route.fulfill(json=NO_JOBS))
    page.goto(server.url)
    page.wait_for_function("window.app && window.app.vueAppReady")
    # it opens a workflow of its own; another that is dropped meanwhile may leave it covered
    page.wait_for_function(f"app.graph?.nodes.length && {IDLE}")
    yield page
    context.close()


def has_jobs(server: Any) -> bool:
    """Whether the server lists its jobs, as the newest pages ask."""
    try:
        server.get("/api/jobs")
    except ClientResponseError:
        return False
    return True


def drop(page: Any, workflow: Path) -> None:
    """Let a workflow fall onto the canvas and wait until its nodes stand there."""
    page.evaluate(DROP, [workflow.name, workflow.read_text(encoding="utf-8")])
    wait_for_nodes(page, workflow)


def wait_for_nodes(page: Any, workflow: Path) -> None:
    kinds = [node["type"] for node in json.loads(workflow.read_text(encoding="utf-8"))["nodes"]]
    page.wait_for_function(f"{KINDS} === '{','.join(kinds)}'")
    page.wait_for_function(IDLE)


def command(page: Any, name: str) -> None:
    page.evaluate(f"app.extensionManager.command.execute('{name}')")


def press_run(page: Any) -> None:
    page.locator(RUN).first.click()


def run(page: Any, server: Any) -> dict[str, Any]:
    """Press Run and wait for the end; what each node shows, by its id."""
    queued = page.expect_response(
        lambda answer: answer.request.method == "POST" and answer.url.endswith("/prompt")
    )
    with queued as answer:
        press_run(page)
    prompt_id = answer.value.json()["prompt_id"]
    end = time.monotonic() + RUN_SECONDS
    while not (history := server.get(f"/history/{prompt_id}")):
        assert time.monotonic() < end, server.log()[-4000:]
        page.wait_for_timeout(500)
    return history[prompt_id]["outputs"]


def wait_for_pictures(page: Any, counts: dict[str, int]) -> None:
    """Until each node, by title, shows as many pictures; then all of the graph is in view."""
    page.wait_for_function(
        f"""counts => {{
            const pictures = {PICTURES};
            // Nodes load their pictures when they are in view.
            app.extensionManager.command.execute("Comfy.Canvas.FitView");
            return Object.entries(counts).every(([title, count]) => {{
                const shown = pictures(app.graph.nodes.find(node => node.title === title));
                return shown.length === count && shown.every(one => one.naturalWidth);
            }});
        }}""",
        arg=counts,
        polling=1000,
    )


def sizes_of_pictures(page: Any, title: str) -> list[list[int]]:
    """Width and height of each picture that the node of this title shows."""
    return page.evaluate(
        f"""title => ({PICTURES})(app.graph.nodes.find(node => node.title === title))
            .map(one => [one.naturalWidth, one.naturalHeight])""",
        title,
    )


def open_help(page: Any, kind: str) -> None:
    """Select a node and press its button for help."""
    page.wait_for_function(
        """kind => {
            app.canvas.selectNode(app.graph.nodes.find(node => node.type === kind));
            return document.querySelector('[data-testid="info-button"]');
        }""",
        arg=kind,
        polling=1000,
    )
    page.get_by_test_id("info-button").click()
