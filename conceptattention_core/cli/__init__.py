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
from ..files import explain_os_error, quote
from ..version import read_version
from . import evaluate, generate, options, segment

NAME = "conceptattention"  # of the command that an installation brings
_is_command = Path(*sys.argv[:1]).stem == NAME
PROGRAM = NAME if _is_command else "python -m conceptattention_core"
DEFAULTS = "conceptattention.json"

COMMANDS: dict[str, Callable[[Any], argparse.ArgumentParser]] = {
    "generate": generate.add,
    "segment": segment.add,
    "evaluate": evaluate.add,
}


def main(arguments: list[str] | None = None) -> int:
    try:
        asked = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        return asked.run(asked)
    except ConceptAttentionError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(explain_os_error(error))
    except (MemoryError, RuntimeError) as error:
        from ..images import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return _fail(f"There is not enough memory: {str(error).strip().partition(chr(10))[0]}")
    except KeyboardInterrupt:
        return 130


def _fail(message: str) -> int:
    options.print_text(f"{PROGRAM}: {' '.join(message.split())}", sys.stderr)
    return 1


def parse_arguments(
    arguments: list[str], kind: type[options.Parser] = options.Parser
) -> argparse.Namespace:
    """What was asked, with the defaults that the model's folder brings."""
    parser, commands = build_parser(kind)
    asked = parser.parse_args(arguments)
    if defaults := read_defaults(commands[asked.command], asked.model):
        # Given twice, an option counts the second time.
        at = arguments.index(asked.command) + 1
        asked = parser.parse_args([*arguments[:at], *defaults, *arguments[at:]])
    return asked


def build_parser(
    kind: type[options.Parser] = options.Parser,
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and those of its commands by name."""
    parser = kind(
        PROGRAM, description="Masks for words, read from the attention of a diffusion transformer."
    )
    parser.add_argument("--version", action="version", version=f"{NAME} {read_version()}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    return parser, {name: add(subparsers) for name, add in COMMANDS.items()}


def read_defaults(parser: argparse.ArgumentParser, model: str) -> list[str]:
    """The defaults that a model folder brings for a command, as options of it.

    Only what describes the model: who wrote the folder decides on nobody's files and machines.
    """
    folder = options.expand(model)
    file = folder / DEFAULTS
    if not file.is_file():
        return []
    try:
        defaults = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConceptAttentionError(f"{quote(file)} is no JSON: {error}.") from None
    known = _optional(parser)
    every = {name for command in build_parser()[1].values() for name in _optional(command)}
    if not isinstance(defaults, dict) or not every >= defaults.keys():
        raise ConceptAttentionError(
            f"{quote(file)} should be an object with some of these keys: "
            f"{', '.join(sorted(every & options.OF_A_MODEL))}."
        )
    if others := sorted(defaults.keys() - options.OF_A_MODEL):
        options.print_text(
            f"{PROGRAM}: {quote(file)}: {', '.join(others)} left out: a model's file only says "
            "what describes the model.",
            sys.stderr,
        )
    given = []
    for name, value in defaults.items():
        if name not in known or name not in options.OF_A_MODEL or value is False:
            continue
        action = known[name]
        is_flag = action.nargs == 0
        if is_flag != (value is True) or not isinstance(value, bool | int | float | str):
            accepted = "true or false" if is_flag else "a number or a text"
            raise ConceptAttentionError(f"{quote(file)}: '{name}' is to be {accepted}.")
        flag = action.option_strings[0]
        given.append(flag if is_flag else f"{flag}={value}")
    return given


def _optional(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options that may be left out, by their name in the file."""
    return {option.dest: option for option in list_options(parser) if not option.required}


def list_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of a command but --help."""
    return [one for one in parser._actions if one.option_strings and one.dest != "help"]
