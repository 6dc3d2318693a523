"""The command line: `python -m conceptattention_core --help`.

A command is a module with a function that adds its parser, listed in `COMMANDS`, and one that runs
it. What is slow to import is imported where it is used.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import ConceptAttentionError
from . import evaluate, generate, segment

PROGRAM = "python -m conceptattention_core"
DEFAULTS = "conceptattention.json"

COMMANDS: dict[str, Callable[[Any], argparse.ArgumentParser]] = {
    "generate": generate.add,
    "segment": segment.add,
    "evaluate": evaluate.add,
}


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, commands = build_parser()
    try:
        asked = parser.parse_args(arguments)
        if defaults := read_defaults(commands[asked.command], asked.model):
            # Given twice, an option counts the second time.
            at = arguments.index(asked.command) + 1
            asked = parser.parse_args([*arguments[:at], *defaults, *arguments[at:]])
        return asked.run(asked)
    except ConceptAttentionError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130


def _fail(message: str) -> int:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
    return 1


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        PROGRAM, description="Masks for words, read from the attention of a diffusion transformer."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    return parser, {name: add(subparsers) for name, add in COMMANDS.items()}


def read_defaults(parser: argparse.ArgumentParser, model: str) -> list[str]:
    """The defaults that a model folder brings for a command, as options of it."""
    file = Path(model).expanduser() / DEFAULTS
    if not file.is_file():
        return []
    try:
        defaults = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ConceptAttentionError(f"{file} is no JSON: {error}.") from None
    known = _optional(parser)
    every = {name for command in build_parser()[1].values() for name in _optional(command)}
    if not isinstance(defaults, dict) or not every >= defaults.keys():
        raise ConceptAttentionError(
            f"{file} should be an object with some of these keys: {', '.join(sorted(every))}."
        )
    own = {name: value for name, value in defaults.items() if name in known}
    flags = [known[name] for name, value in own.items() if value is True]
    valued = [
        f"{known[name]}={value}" for name, value in own.items() if not isinstance(value, bool)
    ]
    return flags + valued


def _optional(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The options that may be left out: name in the file -> name on the command line."""
    return {
        action.dest: action.option_strings[0]
        for action in parser._actions
        if action.option_strings and not action.required and action.dest != "help"
    }
