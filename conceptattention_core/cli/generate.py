"""`generate`: paint a picture and find concepts in it."""

import argparse
import inspect
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import ConceptAttentionError
from ..attention import Method
from ..concepts import parse
from ..maps import reduce
from ..ranges import ACCEPTED, select
from ..recording import RecordSpec
from . import models, options


@dataclass(frozen=True)
class Sampling:
    """What a model is sampled with when nobody says otherwise."""

    steps: int
    guidance: float | None
    true_cfg_scale: float = 1.0
    height: int = 1024
    width: int = 1024


DEV = Sampling(steps=28, guidance=3.5)
SCHNELL = Sampling(steps=4, guidance=0.0)


def add(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "generate",
        help="paint a picture and find concepts in it",
        description="Paint a picture and write a mask for each concept, heat maps, an overlay, "
        "a label map and a report. The picture is the one that comes without concepts.",
        epilog=options.DEFAULTS_NOTE,
        usage="python -m conceptattention_core generate --model DIR_OR_ID --prompt TEXT "
        "--concepts NAMES --out DIR [options]",
        allow_abbrev=False,
    )
    parser.set_defaults(run=generate)

    what = parser.add_argument_group("what")
    options.add_model(what)
    what.add_argument("--prompt", required=True, metavar="TEXT", help="what to paint")
    options.add_concepts(what)
    options.add_out(what)
    options.add_html(what)

    how = parser.add_argument_group("how to paint")
    how.add_argument("--negative-prompt", default="", metavar="TEXT", help="what to stay away from")
    how.add_argument(
        "--guidance", type=float, metavar="X", help="3.5 for dev, 0 for schnell, else the model's"
    )
    how.add_argument(
        "--true-cfg",
        "--true-cfg-scale",
        dest="true_cfg_scale",
        type=float,
        metavar="X",
        help="true guidance against the negative prompt, when above 1; takes twice as long",
    )
    how.add_argument(
        "--steps",
        type=options.count,
        metavar="N",
        help="28 for dev, 4 for schnell, else the model's",
    )
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the first picture")
    how.add_argument("--height", type=options.pixels, metavar="PIXELS", help="1024")
    how.add_argument("--width", type=options.pixels, metavar="PIXELS", help="1024")
    how.add_argument(
        "--batch",
        type=options.count,
        default=1,
        metavar="N",
        help="pictures, with seeds one after another",
    )

    read = parser.add_argument_group("how to read the attention")
    options.add_reading(read)
    read.add_argument("--step-range", default="all", metavar="RANGE", help=f"of steps: {ACCEPTED}")
    options.add_background(read)
    options.add_masks(parser.add_argument_group("how to draw masks"))
    options.add_machine(parser.add_argument_group("where to compute"))
    return parser


def generate(asked: argparse.Namespace) -> int:
    method = Method(asked.attend, asked.space, asked.bounces)
    concepts = parse(asked.concepts, asked.background)
    spec = RecordSpec(concepts, asked.tokens, method)
    for notice in concepts.notices:
        print(notice)
    options.make_room(asked.out, asked.overwrite)
    remove_earlier(asked.out)

    import numpy as np
    import torch

    from ..explorer import save_page
    from ..export import save

    with models.needs_diffusers():
        from ..hosts.diffusers.families import find
        from ..hosts.diffusers.patch import record

    started = time.perf_counter()
    pipe = models.load(asked.model, *models.choose_place(asked.device, asked.dtype))
    family = find(pipe)
    sampling = Sampling(
        **{
            name: value if getattr(asked, name) is None else getattr(asked, name)
            for name, value in asdict(usual(pipe, family.name)).items()
        }
    )
    guidance = read_guidance(pipe, asked.negative_prompt, sampling)
    # ranges that match nothing: says so before it takes time
    select(asked.step_range, sampling.steps, "steps")
    select(asked.blocks, len(family.blocks(pipe.transformer)), "blocks")
    length = family.text_length(pipe)
    seeds = [asked.seed + i for i in range(asked.batch)]
    loaded = time.perf_counter()

    with record(pipe, spec, max_sequence_length=length) as listener:
        images = pipe(
            prompt=asked.prompt,
            **guidance,
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
        scale=asked.scale,
    )
    pictures = []
    for b, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        folder = "." if asked.batch == 1 else f"{seed}"
        found = save(asked.out / folder, np.asarray(image), maps, b, options.read_masks(asked))
        if asked.html:
            save_page(asked.out / folder, np.asarray(image), maps, b)
        image.save(asked.out / folder / "image.png")
        pictures.append({"folder": folder, "seed": seed, **found})
        _tell(asked.out / folder, found["concepts"])

    report = {
        "model": asked.model,
        "family": family.name,
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt,
        **asdict(sampling),
        "device": str(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "pictures": pictures,
        "seconds": {
            "load": round(loaded - started, 2),
            "paint": round(painted - loaded, 2),
            "write": round(time.perf_counter() - painted, 2),
        },
        "versions": dict(models.list_versions()),
    }
    text = json.dumps(report, ensure_ascii=False, indent=1)
    (asked.out / "report.json").write_text(text + "\n", "utf-8")
    return 0


def usual(pipe: Any, family: str) -> Sampling:
    """What a model is sampled with: what its pipeline says."""
    if family == "Flux.1":  # one pipeline for two models
        return DEV if pipe.transformer.config.guidance_embeds else SCHNELL
    accepted = inspect.signature(pipe.__call__).parameters
    true_cfg = accepted.get("true_cfg_scale")
    return Sampling(
        accepted["num_inference_steps"].default,
        accepted["guidance_scale"].default,
        1.0 if true_cfg is None else true_cfg.default,
    )


def read_guidance(pipe: Any, negative_prompt: str, sampling: Sampling) -> dict[str, Any]:
    """What a pipeline is called with to be guided; one has two kinds of guidance, another one."""
    accepted = inspect.signature(pipe.__call__).parameters
    name = type(pipe).__name__
    if negative_prompt and "negative_prompt" not in accepted:
        raise ConceptAttentionError(f"{name} takes no --negative-prompt.")
    guidance: dict[str, Any] = {"guidance_scale": sampling.guidance}
    if "true_cfg_scale" in accepted:
        guided = sampling.true_cfg_scale > 1
        guidance["true_cfg_scale"] = sampling.true_cfg_scale
        guidance["negative_prompt"] = negative_prompt if guided else None
    elif sampling.true_cfg_scale > 1:
        raise ConceptAttentionError(f"{name} takes no --true-cfg; it is guided by --guidance.")
    elif negative_prompt:
        guidance["negative_prompt"] = negative_prompt
    return guidance


def remove_earlier(out: Path) -> None:
    """Remove the masks and heat maps of an earlier run, whose concepts may be others."""
    file = out / "report.json"
    try:
        pictures = json.loads(file.read_text("utf-8"))["pictures"]
        named = [
            Path(picture["folder"], folder, Path(concept["mask"]).name)
            for picture in pictures
            for concept in picture["concepts"]
            for folder in ("masks", "heatmaps")
        ]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return  # none of ours
    for name in named:
        (out / name).unlink(missing_ok=True)
    file.unlink()


def _tell(folder: Path, concepts: list[dict]) -> None:
    print(folder)
    width = max(len(concept["name"]) for concept in concepts)
    for concept in concepts:
        share = f"{concept['coverage']:.1%}" if concept["present"] else "absent"
        print(f"  {concept['name']:{width}}  {share:>6}  {concept['mask']}")
