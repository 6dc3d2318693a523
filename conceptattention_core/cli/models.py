"""Loading a model for a command, and saying what it was loaded with."""

import importlib.metadata
import inspect
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import ConceptAttentionError
from ..files import quote
from ..images import is_out_of_memory
from . import options

if TYPE_CHECKING:
    import torch

DEMO = Path("demo/model")
VERSIONS = ("torch", "diffusers", "transformers", "numpy", "opencv-python", "pillow")


@contextmanager
def needs_diffusers() -> Iterator[None]:
    """Says what to install where the packages of this host are missing."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("diffusers", "transformers"):
            raise
        raise ConceptAttentionError(
            f"This command needs {error.name}: pip install diffusers transformers"
        ) from None


def choose_place(device: str, dtype: str) -> "tuple[str, torch.dtype]":
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ConceptAttentionError(f"There is no device '{device}' here: {reason}") from None
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    return device, getattr(torch, dtype)


def load(model: str, device: str, dtype: "torch.dtype") -> Any:
    folder = options.expand(model)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ConceptAttentionError(
                f"{quote(folder)} holds no diffusers pipeline: it has no model_index.json."
            )
        model = str(folder)
    elif folder == DEMO:  # no name on the Hub: the documents' examples run in a clone
        raise ConceptAttentionError(
            "The demo model is not installed with the package: run this in a clone of the "
            f"repository, which has the folder {DEMO.as_posix()}, or name another model."
        )
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ConceptAttentionError(f"There is no folder {quote(folder)}.")
    import diffusers
    import transformers
    from packaging.version import Version

    keyword = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        diffusers.utils.logging.disable_progress_bar()
    try:
        with _collect_warnings() as warned:
            config: Any = diffusers.DiffusionPipeline.load_config(model)
            if not (isinstance(config, dict) and isinstance(config.get("_class_name"), str)):
                raise ValueError("its model_index.json names no class of a pipeline.")
            pipe = _choose_loader(model, config["_class_name"]).from_pretrained(
                model, **{keyword: dtype}
            )
        if random := [text for text in warned if "newly initialized" in text]:
            raise ValueError(f"its weights do not fit its configuration: {_shorten(random[0])}")
        pipe.set_progress_bar_config(desc="Generating", disable=None)  # None: only on a terminal
        return pipe.to(device)
    except ConceptAttentionError:
        raise
    except Exception as error:  # the files of a model may hold anything
        if is_out_of_memory(error):
            raise
        messages = str(error).strip() or type(error).__name__
        if not isinstance(error, OSError | ValueError):
            messages = f"{type(error).__name__}: {messages}"
        reason = _shorten(messages.splitlines()[0])
        hint = "" if folder.is_dir() else " (No folder here has that name, so the Hub was asked.)"
        raise ConceptAttentionError(
            f"Could not load the model {quote(model)}: {reason}{hint}"
        ) from None


def _shorten(text: str, most: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]} …"


@contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """What the libraries warn of while they load, which nobody sees at their usual level."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    before = [(logger, logger.level, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.handlers = [Collector(logging.WARNING)]
        logger.setLevel(logging.WARNING)
    try:
        yield messages
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers = handlers


def _choose_loader(model: str, name: str) -> Any:
    """What loads a pipeline of the class `name`: one that generates from a prompt alone."""
    import diffusers

    from ..hosts.diffusers.obstacles import required_arguments

    kind = getattr(diffusers, name, None)
    if kind is None or "num_frames" not in inspect.signature(kind.__call__).parameters:
        return diffusers.AutoPipelineForText2Image  # which knows no videos
    if required := required_arguments(kind):
        raise ConceptAttentionError(
            f"{model} is a {name}, which is not called without {', '.join(required)}; models are "
            "accepted that generate from a prompt alone."
        )
    return diffusers.DiffusionPipeline


def list_versions() -> Iterable[tuple[str, str]]:
    for package in VERSIONS:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
