"""Recording never costs the picture: all of our own work while ComfyUI samples is done in here."""

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from threading import get_ident
from types import TracebackType
from typing import Any

from comfy.model_management import InterruptProcessingException
from torch import Tensor

from ... import ConceptAttentionError
from ...forward import StopForward

LOG = logging.getLogger(__name__)


class Guard:
    """Catches what fails in a recording, and keeps the first reason for where maps are read.

    It is never around the host's own calls: their errors, of memory as well, are the host's.
    Guards do not nest.
    """

    def __init__(self, model: str):
        self.model = model
        self.reason: str | None = None

    def __call__(self) -> "Watch":
        return Watch(self)

    def catch(self, error: Exception) -> None:
        reason = str(error)
        if not isinstance(error, ConceptAttentionError):
            LOG.warning("The picture goes on without what is said about it", exc_info=error)
            said = f": {reason.removesuffix('.')}" if reason else ""
            reason = f"{self.model} could not be recorded: {type(error).__name__}{said}."
        if self.reason is None:
            self.reason = reason


class Watch:
    """One stretch of our own work."""

    def __init__(self, guard: Guard):
        self.guard, self.pause = guard, pause_compiler()

    def __enter__(self) -> None:
        self.pause.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.pause.__exit__(None, None, None)
        # a signal of our own, and the user's wish to end the prompt
        passes = isinstance(error, (StopForward, InterruptProcessingException))
        if passes or not isinstance(error, Exception):
            return False
        self.guard.catch(error)
        return True


def pause_compiler() -> AbstractContextManager:
    """Keep what is allocated in here out of what ComfyUI's compiler counts.

    Since 0.34 it notes what a block allocates, all of which has to be free at the block's end. It
    may not be paused around the block itself, nor twice.
    """
    pause = getattr(sys.modules.get("comfy.model_prefetch"), "pause_malloc_graph", None)
    return nullcontext() if pause is None else pause()


def is_compiling() -> bool:
    """Whether ComfyUI's compiler counts what this thread allocates, paused or not."""
    host = sys.modules.get("comfy.model_prefetch")
    graphs = getattr(host, "MALLOC_GRAPHS", None)  # one for each thread
    if graphs is None:
        graphs = getattr(host, "ACTIVE_MALLOC_GRAPHS", {})  # their name in 0.34
    graph = graphs.get(get_ident())
    return graph is not None and getattr(graph, "_comfy_active", True)


def own_copy(value: Any) -> Any:
    """What is kept over blocks, in memory of our own where ComfyUI compiles; else as it is."""
    if not hasattr(sys.modules.get("comfy.model_prefetch"), "pause_malloc_graph"):
        return value
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(map(own_copy, value))
    return value
