"""The commands as functions: keywords are the options of the shell, with `_` for `-`.

Types, ranges, defaults, and the defaults that a model folder brings, are those of the parser: there
is one place that knows them.
"""

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypedDict

from .. import ConceptAttentionError
from . import build_parser, list_options, options, parse_arguments


class CommonOptions(TypedDict, total=False):
    """Options of every command."""

    overwrite: bool
    order: str
    scale: str
    tokens: str
    blocks: str
    attend: str
    space: str
    bounces: int
    seed: int
    device: str
    dtype: str


class WritingOptions(CommonOptions, total=False):
    """Options of the commands that write masks."""

    html: bool
    full_size: bool
    batch: int
    background: bool
    temperature: float
    threshold: str
    level: float
    hard: bool
    contrast: float
    no_edges: bool
    fill_holes: bool
    islands: float
    largest: bool
    grow: int
    feather: int


class GenerateOptions(WritingOptions, total=False):
    """Options of `generate`."""

    negative_prompt: str
    guidance: float
    true_cfg_scale: float
    steps: int
    height: int
    width: int
    frames: int
    fps: float
    step_range: str


class SegmentOptions(WritingOptions, total=False):
    """Options of `segment`."""

    caption: str
    noise: float | str | tuple[float, ...]
    samples: int
    megapixels: float
    ray: str | bool


class EvaluateOptions(CommonOptions, total=False):
    """Options of `evaluate`."""

    data: str | Path
    names: str | Path
    limit: int
    all_variants: bool
    curves: bool
    figures: int
    shard: str
    edges: bool
    softmax: bool
    noise: float | str | tuple[float, ...]
    samples: int
    size: int
    ray: str | bool


class RaisingParser(options.Parser):
    """Raises what ends the program in a shell."""

    def error(self, message: str) -> NoReturn:
        raise ConceptAttentionError(f"{message.removeprefix('argument ')}.")


def call(command: str, given: Mapping[str, Any], positional: Iterable[Any] = ()) -> list[str]:
    """Run a command with options by name, and return the lines that a shell would show."""
    known = {one.dest: one for one in list_options(build_parser()[1][command])}
    if unknown := [name for name in given if name not in known]:
        raise ConceptAttentionError(
            f"{command} has no option {', '.join(unknown)}. Accepted: {', '.join(sorted(known))}."
        )
    words = [word for name, value in given.items() for word in spell(known[name], value)]
    places = [os.fspath(one) for one in positional]
    with options.collecting() as lines:
        asked = parse_arguments(
            [command, *words, *(["--", *places] if places else [])], RaisingParser
        )
        asked.run(asked)
    return lines


def spell(option: argparse.Action, value: Any) -> list[str]:
    """An option and its value as a shell has them; None leaves it to the default."""
    flags = option.option_strings
    if value is None or (value is False and len(flags) == 1):
        return []
    if isinstance(value, bool):
        return [flags[0] if value else flags[-1]]
    if isinstance(value, tuple | list):
        value = ", ".join(map(str, value))
    return [f"{flags[0]}={os.fspath(value) if isinstance(value, os.PathLike) else value}"]
