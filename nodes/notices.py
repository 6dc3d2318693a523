"""Texts on a node: notices, and what it found."""

import logging
import sys
from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.utils import get_executing_context


def show_notices(cls: type[io.ComfyNode], notices: Iterable[str], view: Any = None) -> Any:
    """What a node shows: its `view`, and notices: on the node, in the history and in the log.

    For `ui` of a NodeOutput, a dictionary or one of `comfy_api`'s.
    """
    text = "\n".join(notices)
    show_text(text)
    if not text:
        return view
    logging.warning("%s: %s", cls.define_schema().display_name, text)
    shown = ui.PreviewText(text)
    if view is None:
        return shown
    return {**(view if isinstance(view, dict) else view.as_dict()), **shown.as_dict()}


def running_server() -> Any:
    """ComfyUI's PromptServer, or None where nodes run without one. To import it is to make it."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


_shown: set[str] = set()  # nodes that show a text, which would stay when there is none


def show_text(text: str) -> None:
    """A text on the node that runs; nothing takes an earlier one away."""
    context, page = get_executing_context(), running_server()
    if context is None or page is None or not (text or context.node_id in _shown):
        return
    (_shown.add if text else _shown.discard)(context.node_id)
    page.send_progress_text(text or " ", context.node_id)  # the page skips empty ones
