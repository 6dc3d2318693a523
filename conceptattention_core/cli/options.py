"""Options that several commands take, and the values they accept."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, TextIO

from .. import ConceptAttentionError
from ..attention import ATTEND, MOST_BOUNCES, SPACES
from ..files import CLAIMS, PARTIAL, quote
from ..maps import ORDERS, SCALES
from ..masks import MOST_PIXELS, MaskSpec
from ..output.export import LARGEST_SIDE
from ..ranges import ACCEPTED, DEEP
from ..recording import TOKENS
from ..texts import clean_text, escape_text
from ..thresholds import THRESHOLDS

DTYPES = ("auto", "bfloat16", "float16", "float32")

DEFAULTS_NOTE = """
A model folder may bring its own defaults in a file conceptattention.json: a JSON object whose
keys are options of the commands with _ for -, as {"steps": 20, "true_cfg_scale": 3.0}: those that
say how to generate, to look, to read and to draw, none about files, images or machines.
What is given here wins over them.
"""

OF_A_MODEL = {
    "steps", "guidance", "true_cfg_scale", "negative_prompt", "height", "width", "frames", "fps",
    "size", "noise", "samples", "megapixels",
    "blocks", "step_range", "order", "scale", "temperature", "tokens", "attend", "space", "bounces",
    "background", "softmax",
    "threshold", "level", "hard", "contrast", "no_edges", "edges", "fill_holes", "islands",
    "largest", "grow", "feather",
}  # fmt: skip
"""What a model folder may have defaults for."""
SEEDS = (-(2**63), 2**64 - 1)  # those of torch


_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Keep in a list what is said inside of this `with`, where nobody looks at a terminal."""
    lines: list[str] = []
    before = _COLLECTED.set(lines)
    try:
        yield lines
    finally:
        _COLLECTED.reset(before)


def print_text(text: str, to: TextIO | None = None) -> None:
    """Print text on any terminal: what it cannot show, or would obey, becomes an escape."""
    if (lines := _COLLECTED.get()) is not None:
        lines.append(text)
        return
    stream = sys.stdout if to is None else to
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(escape_text(text).encode(encoding, "backslashreplace").decode(encoding), file=stream)


class Parser(argparse.ArgumentParser):
    """Whose errors can be printed whatever was asked."""

    def error(self, message: str) -> NoReturn:
        super().error(escape_text(message))


def place(text: str) -> str:
    """A path, or the name of a model or machine; names of files may have any bytes but 0."""
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} has a character that no path has")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half a surrogate pair
        raise argparse.ArgumentTypeError(f"{text!r} has a character that no path has") from None
    return text


def path(text: str) -> Path:
    return Path(place(text))


def expand(model: str) -> Path:
    """A model's folder, where there is one."""
    try:
        return Path(model).expanduser()
    except RuntimeError:  # nobody has that home
        return Path(model)


def add_model(group: Any) -> None:
    group.add_argument(
        "--model",
        required=True,
        type=place,
        metavar="DIR_OR_ID",
        help="a model folder of diffusers, or its name on the Hugging Face Hub",
    )


def add_concepts(group: Any) -> None:
    group.add_argument(
        "--concepts",
        required=True,
        type=clean_text,
        metavar="NAMES",
        help="what to find, comma-separated; 'name: words the model reads' is allowed",
    )


def add_out(group: Any) -> None:
    group.add_argument("--out", required=True, type=path, metavar="DIR", help="where files go")
    group.add_argument("--overwrite", action="store_true", help="replace files that are there")


def add_full_size(group: Any) -> None:
    group.add_argument(
        "--full-size",
        action="store_true",
        help=f"overlay and sheet as large as the picture, not {LARGEST_SIDE} pixels a side at most",
    )


def add_html(group: Any) -> None:
    group.add_argument(
        "--html",
        action="store_true",
        help="also a page to explore each picture or frame with: about 1 MB",
    )


def add_reading(group: Any) -> None:
    """How to read the attention."""
    group.add_argument(
        "--blocks", type=clean_text, default=DEEP, metavar="RANGE", help=f"of the model: {ACCEPTED}"
    )
    group.add_argument("--order", **one_of("what comes first", ORDERS))
    group.add_argument("--scale", **one_of("how scores compete", SCALES))
    group.add_argument(
        "--temperature",
        type=within(1e-3, 1e4),
        default=1.0,
        metavar="X",
        help="1, of 0.001 to 10000; above is softer",
    )
    group.add_argument("--tokens", **one_of("tokens of a concept that count", TOKENS))
    group.add_argument("--attend", **one_of("what concepts attend to", ATTEND))
    group.add_argument("--space", **one_of("where they meet the picture", SPACES))
    add_bounces(group)


def add_bounces(group: Any) -> None:
    group.add_argument(
        "--bounces",
        type=int,
        choices=range(MOST_BOUNCES + 1),
        default=0,
        metavar="N",
        help=f"0 to {MOST_BOUNCES}; experimental: passes maps through the image's own attention",
    )


def add_background(group: Any) -> None:
    group.add_argument(
        "--background", action="store_true", help="let a background take part, without a mask"
    )


def add_masks(group: Any) -> None:
    """How to draw masks."""
    group.add_argument("--threshold", **one_of("what is inside", THRESHOLDS))
    group.add_argument(
        "--level",
        type=share,
        default=0.5,
        metavar="X",
        help="0.5; for fixed, top area and hysteresis",
    )
    group.add_argument("--hard", action="store_true", help="black and white, no grey")
    group.add_argument(
        "--contrast",
        type=within(0.01, 100),
        default=1.0,
        metavar="X",
        help="1, of 0.01 to 100; of soft masks",
    )
    group.add_argument(
        "--no-edges", action="store_true", help="smooth masks that do not follow the picture"
    )
    group.add_argument("--fill-holes", action="store_true", help="fill what a mask encloses")
    group.add_argument(
        "--islands",
        type=share,
        default=0.0,
        metavar="X",
        help="0; drop parts below this share of the picture",
    )
    group.add_argument("--largest", action="store_true", help="keep only the largest part")
    group.add_argument(
        "--grow",
        type=whole(-MOST_PIXELS, MOST_PIXELS),
        default=0,
        metavar="PIXELS",
        help=f"0, of -{MOST_PIXELS} to {MOST_PIXELS}; negative numbers shrink",
    )
    group.add_argument(
        "--feather",
        type=whole(0, MOST_PIXELS),
        default=0,
        metavar="PIXELS",
        help=f"0, up to {MOST_PIXELS}; softens the edge",
    )


def read_masks(asked: argparse.Namespace) -> MaskSpec:
    """What `add_masks` was given."""
    return MaskSpec(
        edges=not asked.no_edges,
        threshold=asked.threshold,
        amount=asked.level,
        soft=not asked.hard,
        contrast=asked.contrast,
        holes=asked.fill_holes,
        islands=asked.islands,
        largest=asked.largest,
        grow=asked.grow,
        feather=asked.feather,
    )


def add_machine(group: Any) -> None:
    """Where to compute."""
    group.add_argument(
        "--device", type=clean_text, default="auto", help="cuda, mps or cpu; the best there is"
    )
    group.add_argument("--dtype", **one_of("auto: float32 on a CPU, else bfloat16", DTYPES))


def one_of(what: str, names: Iterable[str]) -> dict[str, Any]:
    """An option with a few named choices, the first one the default."""
    choices = list(names)
    accepted = f"{what}; {' | '.join(choices)}"
    return {"choices": choices, "default": choices[0], "metavar": "NAME", "help": accepted}


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{_short(text)}' is no number")
    return value


def within(low: float, high: float) -> Callable[[str], float]:
    """A number of a range, both ends included."""

    def read(text: str) -> float:
        if not low <= number(text) <= high:
            raise argparse.ArgumentTypeError(
                f"'{_short(text)}' does not lie between {low:g} and {high:g}"
            )
        return float(text)

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number of a range, both ends included."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"'{_short(text)}' is no whole number from {low} to {high}"
            )
        return value

    return read


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]} … ({len(text)} characters)"


seed = whole(*SEEDS)


def check_seeds(first: int, number: int) -> None:
    """Refuse seeds that count up beyond what noise is made from."""
    if first + number - 1 > SEEDS[1]:
        raise ConceptAttentionError(
            f"Seeds are at most {SEEDS[1]}; {number} of them from {first} on go beyond."
        )


def count(text: str) -> int:
    try:
        return whole(1, 2**31 - 1)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"'{_short(text)}' is no whole number above 0 and below {2**31}"
        ) from None


def pixels(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) < 9 else 0
    if value % 16 or not 16 <= value <= 2**15:
        raise argparse.ArgumentTypeError(
            f"'{_short(text)}' is no multiple of 16 pixels from 16 to {2**15}"
        )
    return value


def positive(text: str) -> float:
    if not number(text) > 0:
        raise argparse.ArgumentTypeError(f"'{_short(text)}' is not above 0")
    return float(text)


def share(text: str) -> float:
    if not 0 <= number(text) <= 1:
        raise argparse.ArgumentTypeError(f"'{_short(text)}' does not lie between 0 and 1")
    return float(text)


def make_room(out: Path, overwrite: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    there = (one for one in out.iterdir() if one.name != CLAIMS and one.suffix != PARTIAL)
    if not overwrite and any(there):
        raise ConceptAttentionError(
            f"{quote(out)} is not empty. Name another folder, or add --overwrite."
        )
    if not os.access(out, os.W_OK):
        raise PermissionError(13, os.strerror(13), str(out))


def add_locating(group: Any) -> None:
    """How to look at an image that exists already."""
    group.add_argument(
        "--caption", type=clean_text, default="", metavar="TEXT", help="what the picture shows"
    )
    group.add_argument(
        "--noise",
        type=clean_text,
        default="0.5",
        metavar="T",
        help="0.5; how much noise is mixed in, 0..1, or several levels, comma-separated",
    )
    group.add_argument(
        "--samples", type=count, default=1, metavar="N", help="noises that are averaged"
    )
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="of the first noise")


def add_ray(group: Any) -> None:
    group.add_argument(
        "--ray",
        type=place,
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="spread the work over a Ray cluster, or over this machine without one",
    )
