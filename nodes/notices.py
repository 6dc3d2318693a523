"""Texts on a node: notices, and what it found. `web/js/notices.js` shows them there."""

import logging
import sys
from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io, ui


def show_notices(cls: type[io.ComfyNode], notices: Iterable[str], view: Any = None) -> Any:
    """What a node shows: its `view`, and notices: on the node, in the history and in the log.

    For `ui` of a NodeOutput, a dictionary or one of `comfy_api`'s.
    """
    text = "\n".join(notices)
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
