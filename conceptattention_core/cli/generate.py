"""`generate`: generate an image or a video and find concepts in it.

Images of a batch are generated at once, videos one after another: one fills a graphics card. How
the files of an image and of a video lie in their folders is in `output/export.py`.
"""

import argparse
import inspect
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import ConceptAttentionError
from ..attention import Method
from ..concepts import parse
from ..files import (
    claim,
    list_sizes,
    move_files,
    name_partial,
    naming,
    quote,
    remove_partials,
    sweep_claims,
    sync_tree,
    to_json,
    write_text,
)
from ..maps import ReadSpec, read_maps
from ..ranges import ACCEPTED, select
from ..recording import Recording, RecordSpec
from ..texts import clean_text
from . import models, options

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..hosts.diffusers.families.base import Family

REPORT = "report.json"


@dataclass(frozen=True)
class Sampling:
    """What a model is sampled with when nothing else is asked for.

    A size of None leaves it to the pipeline. Images have no `frames` and no `fps`.
    """

    steps: int
    guidance: float | None
    true_cfg_scale: float = 1.0
    height: int | None = 1024
    width: int | None = 1024
    frames: int | None = None
    fps: float | None = None


DEV = Sampling(steps=28, guidance=3.5)
SCHNELL = Sampling(steps=4, guidance=0.0)


def add(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "generate",
        help="generate an image or a video and find concepts in it",
        description="Generate an image and write a mask for each concept, heat maps, an overlay, "
        "a label map and a report; or a video, and each of these as a folder with a file for each "
        "frame. The image or video is the one that comes without concepts.",
        epilog=options.DEFAULTS_NOTE,
        usage="%(prog)s --model DIR_OR_ID --prompt TEXT --concepts NAMES --out DIR [options]",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)

    what = parser.add_argument_group("what")
    options.add_model(what)
    what.add_argument(
        "--prompt", required=True, type=clean_text, metavar="TEXT", help="what to generate"
    )
    options.add_concepts(what)
    options.add_out(what)
    options.add_html(what)
    options.add_full_size(what)

    how = parser.add_argument_group("how to generate")
    how.add_argument(
        "--negative-prompt",
        type=clean_text,
        default="",
        metavar="TEXT",
        help="what to stay away from",
    )
    how.add_argument(
        "--guidance",
        type=options.within(-1000, 1000),
        metavar="X",
        help="3.5 for dev, 0 for schnell, else the model's",
    )
    how.add_argument(
        "--true-cfg",
        "--true-cfg-scale",
        dest="true_cfg_scale",
        type=options.within(-1000, 1000),
        metavar="X",
        help="true guidance against the negative prompt, when above 1; takes twice as long",
    )
    how.add_argument(
        "--steps",
        type=options.whole(1, 10_000),
        metavar="N",
        help="28 for dev, 4 for schnell, else the model's",
    )
    how.add_argument(
        "--seed", type=options.seed, default=0, metavar="N", help="of the first picture"
    )
    size = "1024; of videos the model's"
    how.add_argument("--height", type=options.pixels, metavar="PIXELS", help=size)
    how.add_argument("--width", type=options.pixels, metavar="PIXELS", help=size)
    how.add_argument(
        "--frames",
        type=options.whole(1, 100_000),
        metavar="N",
        help="of a video; as many as the model usually makes",
    )
    how.add_argument(
        "--fps",
        type=options.within(0.01, 1000),
        metavar="X",
        help="frames a second of video.mp4; those of the model's training",
    )
    how.add_argument(
        "--batch",
        type=options.whole(1, 10_000),
        default=1,
        metavar="N",
        help="pictures or videos, with seeds one after another",
    )

    read = parser.add_argument_group("how to read the attention")
    options.add_reading(read)
    read.add_argument(
        "--step-range",
        type=clean_text,
        default="all",
        metavar="RANGE",
        help=f"of steps: {ACCEPTED}",
    )
    options.add_background(read)
    options.add_masks(parser.add_argument_group("how to draw masks"))
    options.add_machine(parser.add_argument_group("where to compute"))
    return parser


def run(asked: argparse.Namespace) -> int:
    options.check_seeds(asked.seed, asked.batch)
    method = Method(asked.attend, asked.space, asked.bounces)
    concepts = parse(asked.concepts, asked.background)
    spec = RecordSpec(concepts, asked.tokens, method)
    reading = ReadSpec(
        asked.step_range, asked.blocks, asked.order, asked.temperature, asked.scale, asked.space
    )
    for notice in concepts.notices:
        options.print_text(notice)
    options.make_room(asked.out, asked.overwrite)
    sweep_claims(asked.out)
    mine = claim(asked.out, REPORT)
    if mine is None:
        raise ConceptAttentionError(f"Another run is writing to {quote(asked.out)}.")
    # everything is written here first, and moved once all of it is whole
    partial = name_partial(asked.out / REPORT)
    try:
        if mine.alone:
            remove_partials(asked.out / REPORT)
        _generate(asked, spec, reading, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        mine.release()
    return 0


def _generate(asked: argparse.Namespace, spec: RecordSpec, how: ReadSpec, partial: Path) -> None:
    with models.needs_diffusers():
        from ..hosts.diffusers.families import family_of
        from ..hosts.diffusers.patch import record

    started = time.perf_counter()
    pipe = models.load(asked.model, *models.choose_place(asked.device, asked.dtype))
    family = family_of(pipe)
    check_frames(pipe, family, asked)
    sampling = Sampling(
        **{
            name: value if getattr(asked, name) is None else getattr(asked, name)
            for name, value in asdict(read_sampling(pipe, family)).items()
        }
    )
    # ranges that match nothing: says so before it takes time
    select(how.steps, sampling.steps, "steps")
    select(how.blocks, len(family.blocks(pipe.transformer)), "blocks")
    length = family.text_length(pipe)
    call = {
        "prompt": asked.prompt,
        **read_guidance(pipe, asked.negative_prompt, sampling),
        "num_inference_steps": sampling.steps,
        "height": sampling.height,
        "width": sampling.width,
        "max_sequence_length": length,
    }
    seeds = [asked.seed + i for i in range(asked.batch)]
    loaded = time.perf_counter()

    made: list[dict[str, Any]] = []
    writing = 0.0
    with record(pipe, spec, max_sequence_length=length) as listener:
        for images in generate(pipe, call, seeds, sampling):
            began = time.perf_counter()
            made += write_files(asked, partial, images, listener.recording(), how, sampling)
            writing += time.perf_counter() - began

    w, h = images[seeds[-1]][0].size
    report = {
        "model": asked.model,
        "family": family.name,
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "true_cfg_scale": sampling.true_cfg_scale,
        "height": h,
        "width": w,
        "device": str(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "pictures" if sampling.fps is None else "videos": made,
        "seconds": {
            "load": round(loaded - started, 2),
            "paint": round(time.perf_counter() - loaded - writing, 2),
            "write": round(writing, 2),
        },
        "versions": dict(models.list_versions()),
    }
    text, files = to_json(report), list_sizes(partial)
    sync_tree(partial)
    remove_earlier(asked.out)  # only now: the new ones are there
    move_files(partial, asked.out, files)
    write_text(asked.out / REPORT, text)
    for found in made:
        _print_summary(asked.out / found["folder"], found["concepts"])


def read_sampling(pipe: Any, family: "Family") -> Sampling:
    """What a model is sampled with: what its pipeline says."""
    from ..hosts.diffusers.families.base import VideoFamily

    if family.name == "Flux.1":  # one pipeline for two models
        return DEV if pipe.transformer.config.guidance_embeds else SCHNELL
    accepted = inspect.signature(pipe.__call__).parameters
    defaults = {name: parameter.default for name, parameter in accepted.items()}
    sampling = Sampling(
        defaults["num_inference_steps"],
        defaults["guidance_scale"],
        defaults.get("true_cfg_scale", 1.0),
    )
    if not isinstance(family, VideoFamily):
        return sampling
    return replace(
        sampling,
        height=defaults["height"],
        width=defaults["width"],
        frames=defaults["num_frames"],
        fps=family.fps(pipe),
    )


def check_frames(pipe: Any, family: "Family", asked: argparse.Namespace) -> None:
    """Refuse numbers of frames that a model does not make."""
    from ..hosts.diffusers.families.base import VideoFamily

    if isinstance(family, VideoFamily):
        few = family.stride
        if asked.frames is not None and (asked.frames - 1) % few:
            raise ConceptAttentionError(
                f"{family.name} makes one frame and then {few} at a time: 1, {1 + few}, "
                f"{1 + 2 * few} and so on; asked for {asked.frames}."
            )
    elif asked.frames is not None or asked.fps is not None:
        raise ConceptAttentionError(
            f"{type(pipe).__name__} makes pictures; --frames and --fps are for models of videos."
        )


def generate(
    pipe: Any, call: dict[str, Any], seeds: list[int], sampling: Sampling
) -> Iterator[dict[int, list["Image"]]]:
    """For each run of the pipeline what it made, by seed: an image, or a video's frames."""
    import torch

    noises = [torch.Generator().manual_seed(seed) for seed in seeds]
    if sampling.fps is None:
        images = pipe(**call, num_images_per_prompt=len(seeds), generator=noises).images
        yield {seed: [image] for seed, image in zip(seeds, images, strict=True)}
        return
    for seed, noise in zip(seeds, noises, strict=True):
        (frames,) = pipe(**call, num_frames=sampling.frames, generator=noise).frames
        yield {seed: frames}


def write_files(
    asked: argparse.Namespace,
    out: Path,
    generated: dict[int, list["Image"]],
    recording: Recording,
    reading: ReadSpec,
    sampling: Sampling,
) -> Iterator[dict[str, Any]]:
    """Write the files of what one run made into `out`, and yield the report's part of each."""
    import numpy as np

    from ..output.explorer import make_page
    from ..output.export import file_path, save_image, save_image_files, save_video_files

    is_video = sampling.fps is not None
    if is_video:
        (frames,) = generated.values()
        recording = recording.of_length(len(frames))
    maps = read_maps(recording, reading)
    masks = options.read_masks(asked)
    for b, (seed, images) in enumerate(generated.items()):
        name = "." if asked.batch == 1 else f"{seed}"
        folder, pixels = out / name, [np.asarray(image) for image in images]
        if sampling.fps is None:
            found = save_image_files(folder, pixels[0], maps.of_image(b), masks, asked.full_size)
            save_image(images[0], folder / file_path("image"))
        else:
            found = save_video_files(folder, pixels, maps, masks, sampling.fps, asked.full_size)
        if asked.html:
            for n, picture in enumerate(pixels):
                file = folder / file_path("explorer", n if is_video else None, "html")
                file.parent.mkdir(exist_ok=True)
                with naming(file):
                    file.write_text(make_page(picture, maps, b + n), "utf-8")
        yield {"folder": name, "seed": seed, **found}


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
    """Remove the files of an earlier run, whose concepts, seeds and frames may be others."""
    from ..output.export import remove_image_files

    file, top = out / REPORT, out.resolve()
    try:
        report = json.loads(file.read_text("utf-8"))
        for found in report.get("pictures") or report["videos"]:
            folder = out / found["folder"]
            if not folder.resolve().is_relative_to(top):
                continue  # a report that somebody has altered
            remove_image_files(folder, found)
            if folder != out and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    except (
        FileNotFoundError,
        RecursionError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ):
        return  # none of ours
    file.unlink()


def _print_summary(folder: Path, concepts: list[dict]) -> None:
    options.print_text(quote(folder))
    width = max(len(concept["name"]) for concept in concepts)
    for concept in concepts:
        share = f"{concept['coverage']:.1%}" if concept["present"] else "absent"
        options.print_text(f"  {concept['name']:{width}}  {share:>6}  {concept['mask']}")
