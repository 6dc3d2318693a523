"""The command line: `python -m conceptattention_core generate --help`.

To add a command, write a function that adds its parser and one that runs it, and list the first
in `COMMANDS`. What is slow to import is imported where it is used.
"""

import argparse
import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import ConceptAttentionError
from .attention import ATTEND, SPACES, Method
from .concepts import parse
from .maps import ORDERS, reduce
from .ranges import ACCEPTED, select
from .recording import TOKENS, RecordSpec
from .thresholds import THRESHOLDS

if TYPE_CHECKING:
    import torch

PROGRAM = "python -m conceptattention_core"
DEFAULTS = "conceptattention.json"
DTYPES = ("auto", "bfloat16", "float16", "float32")
VERSIONS = ("torch", "diffusers", "transformers", "numpy", "opencv-python", "pillow")

OWN_DEFAULTS = f"""
A model folder may bring its own defaults in a file {DEFAULTS}: a JSON object whose
keys are options of this command with _ for -, as {{"steps": 20, "true_cfg_scale": 3.0}}.
What is given here wins over them.
"""


@dataclass(frozen=True)
class Sampling:
    """What a model is sampled with when nobody says otherwise."""

    steps: int
    guidance: float
    height: int = 1024
    width: int = 1024


DEV = Sampling(steps=28, guidance=3.5)
SCHNELL = Sampling(steps=4, guidance=0.0)


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, commands = _parser()
    try:
        asked = parser.parse_args(arguments)
        if defaults := _own_defaults(commands[asked.command], asked.model):
            # Given twice, an option counts the second time.
            at = arguments.index(asked.command) + 1
            asked = parser.parse_args([*arguments[:at], *defaults, *arguments[at:]])
        asked.run(asked)
    except ConceptAttentionError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        PROGRAM, description="Masks for words, read from the attention of a diffusion transformer."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    return parser, {name: add(subparsers) for name, add in COMMANDS.items()}


# --- generate -------------------------------------------------------------------------------------


def _add_generate(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "generate",
        help="paint a picture and find concepts in it",
        description="Paint a picture and write a mask for each concept, heat maps, an overlay, "
        "a label map and a report. The picture is the one that comes without concepts.",
        epilog=OWN_DEFAULTS,
        usage=f"{PROGRAM} generate --model DIR_OR_ID --prompt TEXT --concepts NAMES --out DIR "
        "[options]",
        allow_abbrev=False,
    )
    parser.set_defaults(run=generate)

    what = parser.add_argument_group("what")
    what.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_ID",
        help="a Flux.1 folder of diffusers, or its name on the Hugging Face Hub",
    )
    what.add_argument("--prompt", required=True, metavar="TEXT", help="what to paint")
    what.add_argument(
        "--concepts",
        required=True,
        metavar="NAMES",
        help="what to find, comma-separated; 'name: words the model reads' is allowed",
    )
    what.add_argument("--out", required=True, type=Path, metavar="DIR", help="where files go")
    what.add_argument("--overwrite", action="store_true", help="replace files that are there")

    how = parser.add_argument_group("how to paint")
    how.add_argument("--negative-prompt", default="", metavar="TEXT", help="what to stay away from")
    how.add_argument("--guidance", type=float, metavar="X", help="3.5 for dev, 0 for schnell")
    how.add_argument(
        "--true-cfg",
        "--true-cfg-scale",
        dest="true_cfg_scale",
        type=float,
        default=1.0,
        metavar="X",
        help="true guidance against the negative prompt, when above 1; takes twice as long",
    )
    how.add_argument("--steps", type=_count, metavar="N", help="28 for dev, 4 for schnell")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the first picture")
    how.add_argument("--height", type=_pixels, metavar="PIXELS", help="1024")
    how.add_argument("--width", type=_pixels, metavar="PIXELS", help="1024")
    how.add_argument(
        "--batch",
        type=_count,
        default=1,
        metavar="N",
        help="pictures, with seeds one after another",
    )

    read = parser.add_argument_group("how to read the attention")
    read.add_argument("--blocks", default="all", metavar="RANGE", help=f"of the model: {ACCEPTED}")
    read.add_argument("--step-range", default="all", metavar="RANGE", help="of the steps, likewise")
    read.add_argument("--order", **_one_of("what comes first", ORDERS))
    read.add_argument(
        "--temperature", type=_positive, default=1.0, metavar="X", help="1; above is softer"
    )
    read.add_argument("--tokens", **_one_of("tokens of a concept that count", TOKENS))
    read.add_argument("--attend", **_one_of("what concepts attend to", ATTEND))
    read.add_argument("--space", **_one_of("where they meet the picture", SPACES))
    read.add_argument(
        "--background", action="store_true", help="let a background take part, without a mask"
    )

    masks = parser.add_argument_group("how to draw masks")
    masks.add_argument("--threshold", **_one_of("what is inside", THRESHOLDS))
    masks.add_argument(
        "--level", type=_share, default=0.5, metavar="X", help="0.5; for fixed and top area"
    )
    masks.add_argument("--hard", action="store_true", help="black and white, no grey")

    machine = parser.add_argument_group("where to compute")
    machine.add_argument("--device", default="auto", help="cuda, mps or cpu; the best there is")
    machine.add_argument("--dtype", **_one_of("auto: float32 on a CPU, else bfloat16", DTYPES))
    return parser


def _one_of(what: str, names: Iterable[str]) -> dict[str, Any]:
    """An option with a few named choices, the first one the default."""
    choices = list(names)
    accepted = f"{what}; {' | '.join(choices)}"
    return {"choices": choices, "default": choices[0], "metavar": "NAME", "help": accepted}


def generate(asked: argparse.Namespace) -> None:
    method = Method(asked.attend, asked.space)
    concepts = parse(asked.concepts, asked.background)
    spec = RecordSpec(concepts, asked.tokens, method, asked.blocks)
    for notice in concepts.notices:
        print(notice)
    _make_room(asked.out, asked.overwrite)

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import numpy as np
    import torch

    from .export import save

    try:
        from .hosts.diffusers.families import find
        from .hosts.diffusers.patch import record
    except ModuleNotFoundError as error:
        if error.name not in ("diffusers", "transformers"):
            raise
        raise ConceptAttentionError(
            f"This command needs {error.name}: pip install diffusers transformers"
        ) from None

    started = time.perf_counter()
    pipe = _load(asked.model, *_place(asked.device, asked.dtype))
    family = find(pipe)
    usual = DEV if pipe.transformer.config.guidance_embeds else SCHNELL
    sampling = Sampling(
        **{
            name: value if getattr(asked, name) is None else getattr(asked, name)
            for name, value in asdict(usual).items()
        }
    )
    select(asked.step_range, sampling.steps, "steps")  # says so before it takes time
    length = family.text_length(pipe)
    seeds = [asked.seed + i for i in range(asked.batch)]
    loaded = time.perf_counter()

    with record(pipe, spec, max_sequence_length=length) as listener:
        images = pipe(
            asked.prompt,
            negative_prompt=asked.negative_prompt if asked.true_cfg_scale > 1 else None,
            true_cfg_scale=asked.true_cfg_scale,
            guidance_scale=sampling.guidance,
            num_inference_steps=sampling.steps,
            height=sampling.height,
            width=sampling.width,
            num_images_per_prompt=asked.batch,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            max_sequence_length=length,
        ).images
    painted = time.perf_counter()

    maps = reduce(
        listener.recording(),
        steps=asked.step_range,
        blocks=asked.blocks,
        order=asked.order,
        temperature=asked.temperature,
    )
    pictures = []
    for b, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        folder = "." if asked.batch == 1 else f"{seed}"
        found = save(
            asked.out / folder,
            np.asarray(image),
            maps,
            b,
            threshold=asked.threshold,
            amount=asked.level,
            soft=not asked.hard,
        )
        pictures.append({"folder": folder, "seed": seed, **found})
        _tell(asked.out / folder, found["concepts"])

    report = {
        "model": asked.model,
        "family": family.name,
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt,
        "true_cfg_scale": asked.true_cfg_scale,
        **asdict(sampling),
        "device": str(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "pictures": pictures,
        "seconds": {
            "load": round(loaded - started, 2),
            "paint": round(painted - loaded, 2),
            "write": round(time.perf_counter() - painted, 2),
        },
        "versions": dict(_versions(VERSIONS)),
    }
    text = json.dumps(report, ensure_ascii=False, indent=1)
    (asked.out / "report.json").write_text(text + "\n", "utf-8")


COMMANDS: dict[str, Callable[[Any], argparse.ArgumentParser]] = {"generate": _add_generate}


# --- models ---------------------------------------------------------------------------------------


def _own_defaults(parser: argparse.ArgumentParser, model: str) -> list[str]:
    """The defaults that a model folder brings, as options."""
    file = Path(model).expanduser() / DEFAULTS
    if not file.is_file():
        return []
    try:
        defaults = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ConceptAttentionError(f"{file} is no JSON: {error}.") from None
    known = {
        action.dest: action.option_strings[0]
        for action in parser._actions
        if not action.required and action.dest != "help"
    }
    if not isinstance(defaults, dict) or not known.keys() >= defaults.keys():
        raise ConceptAttentionError(
            f"{file} should be an object with some of these keys: {', '.join(known)}."
        )
    flags = [known[name] for name, value in defaults.items() if value is True]
    valued = [
        f"{known[name]}={value}" for name, value in defaults.items() if not isinstance(value, bool)
    ]
    return flags + valued


def _place(device: str, dtype: str) -> "tuple[str, torch.dtype]":
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


def _load(model: str, device: str, dtype: "torch.dtype") -> Any:
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ConceptAttentionError(
                f"{folder} holds no diffusers pipeline: it has no model_index.json."
            )
        model = str(folder)
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ConceptAttentionError(f"There is no folder {folder}.")
    import diffusers
    import transformers
    from packaging.version import Version

    keyword = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        diffusers.utils.logging.disable_progress_bar()
    try:
        pipe = diffusers.AutoPipelineForText2Image.from_pretrained(model, **{keyword: dtype})
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        hint = "" if folder.is_dir() else " (No folder here has that name, so the Hub was asked.)"
        raise ConceptAttentionError(f"Could not load the model {model}: {reason}{hint}") from None
    pipe.set_progress_bar_config(desc="Painting", disable=None)  # None: only on a terminal
    return pipe.to(device)


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for package in packages:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


# --- files and values -----------------------------------------------------------------------------


def _make_room(out: Path, overwrite: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if not overwrite and any(out.iterdir()):
        raise ConceptAttentionError(f"{out} is not empty. Name another folder, or add --overwrite.")
    if not os.access(out, os.W_OK):
        raise PermissionError(13, os.strerror(13), str(out))


def _tell(folder: Path, concepts: list[dict]) -> None:
    print(folder)
    width = max(len(concept["name"]) for concept in concepts)
    for concept in concepts:
        share = f"{concept['coverage']:.1%}" if concept["present"] else "absent"
        print(f"  {concept['name']:{width}}  {share:>6}  {concept['mask']}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) < 16 or int(text) % 16:
        raise argparse.ArgumentTypeError(f"'{text}' is no multiple of 16 pixels")
    return int(text)


def _positive(text: str) -> float:
    if not _number(text) > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0")
    return float(text)


def _share(text: str) -> float:
    if not 0 <= _number(text) <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' does not lie between 0 and 1")
    return float(text)
