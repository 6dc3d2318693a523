"""Options that several commands take, and the values they accept."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import ConceptAttentionError
from ..attention import ATTEND, MOST_BOUNCES, SPACES
from ..maps import ORDERS, SCALES
from ..masks import MaskSpec
from ..ranges import ACCEPTED, DEEP
from ..recording import TOKENS
from ..thresholds import THRESHOLDS

DTYPES = ("auto", "bfloat16", "float16", "float32")

DEFAULTS_NOTE = """
A model folder may bring its own defaults in a file conceptattention.json: a JSON object whose
keys are options of the commands with _ for -, as {"steps": 20, "true_cfg_scale": 3.0}.
What is given here wins over them.
"""


def add_model(group: Any) -> None:
    group.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_ID",
        help="a model folder of diffusers, or its name on the Hugging Face Hub",
    )


def add_concepts(group: Any) -> None:
    group.add_argument(
        "--concepts",
        required=True,
        metavar="NAMES",
        help="what to find, comma-separated; 'name: words the model reads' is allowed",
    )


def add_out(group: Any) -> None:
    group.add_argument("--out", required=True, type=Path, metavar="DIR", help="where files go")
    group.add_argument("--overwrite", action="store_true", help="replace files that are there")


def add_html(group: Any) -> None:
    group.add_argument(
        "--html",
        action="store_true",
        help="also a page to explore each picture or frame with: about 1 MB",
    )


def add_reading(group: Any) -> None:
    """How to read the attention."""
    group.add_argument("--blocks", default=DEEP, metavar="RANGE", help=f"of the model: {ACCEPTED}")
    group.add_argument("--order", **one_of("what comes first", ORDERS))
    group.add_argument("--scale", **one_of("how scores compete", SCALES))
    group.add_argument(
        "--temperature", type=positive, default=1.0, metavar="X", help="1; above is softer"
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
        "--contrast", type=positive, default=1.0, metavar="X", help="1; of soft masks"
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
        "--grow", type=int, default=0, metavar="PIXELS", help="0; negative numbers shrink"
    )
    group.add_argument(
        "--feather", type=int, default=0, metavar="PIXELS", help="0; softens the edge"
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
    group.add_argument("--device", default="auto", help="cuda, mps or cpu; the best there is")
    group.add_argument("--dtype", **one_of("auto: float32 on a CPU, else bfloat16", DTYPES))


def one_of(what: str, names: Iterable[str]) -> dict[str, Any]:
    """An option with a few named choices, the first one the default."""
    choices = list(names)
    accepted = f"{what}; {' | '.join(choices)}"
    return {"choices": choices, "default": choices[0], "metavar": "NAME", "help": accepted}


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from None


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def pixels(text: str) -> int:
    if not text.isdecimal() or int(text) < 16 or int(text) % 16:
        raise argparse.ArgumentTypeError(f"'{text}' is no multiple of 16 pixels")
    return int(text)


def positive(text: str) -> float:
    if not number(text) > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0")
    return float(text)


def share(text: str) -> float:
    if not 0 <= number(text) <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' does not lie between 0 and 1")
    return float(text)


def make_room(out: Path, overwrite: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if not overwrite and any(out.iterdir()):
        raise ConceptAttentionError(f"{out} is not empty. Name another folder, or add --overwrite.")
    if not os.access(out, os.W_OK):
        raise PermissionError(13, os.strerror(13), str(out))


def add_look(group: Any) -> None:
    """How to look at a picture that exists already."""
    group.add_argument("--caption", default="", metavar="TEXT", help="what the picture shows")
    group.add_argument(
        "--noise",
        default="0.5",
        metavar="T",
        help="0.5; how much noise is mixed in, 0..1, or several levels, comma-separated",
    )
    group.add_argument(
        "--samples", type=count, default=1, metavar="N", help="noises that are averaged"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the first noise")


def add_ray(group: Any) -> None:
    group.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="spread the work over a Ray cluster, or over this machine without one",
    )
