"""`segment`: find concepts in images that exist already."""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..attention import Method
from ..concepts import parse
from ..files import quote, write_json
from ..images import ImageFile, list_images, stack_images
from ..locating import MEGAPIXELS, LocateSpec, parse_noise
from ..maps import ConceptMaps, ReadSpec, read_maps
from ..pixels import ImageArray
from ..recording import RecordSpec
from . import models, options
from .segmenting import Outcome, list_open, open_folder, segment_images

SUMMARY = "summary.json"


def add(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "segment",
        help="find concepts in pictures that exist already",
        description="Write for each picture a folder with a mask for each concept, heat maps, an "
        "overlay, a label map and a report. A run that was stopped goes on where it was.",
        epilog=options.DEFAULTS_NOTE,
        usage="%(prog)s PATH ... --concepts NAMES --model DIR_OR_ID --out DIR [options]",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)

    what = parser.add_argument_group("what")
    what.add_argument(
        "paths", nargs="+", type=options.path, metavar="PATH", help="pictures, or folders"
    )
    options.add_concepts(what)
    options.add_model(what)
    options.add_out(what)
    options.add_html(what)
    options.add_full_size(what)

    locating = parser.add_argument_group("how to look at an image")
    options.add_locating(locating)
    locating.add_argument(
        "--megapixels",
        type=options.positive,
        default=MEGAPIXELS,
        metavar="X",
        help="larger pictures are looked at in this size; masks keep the picture's",
    )
    locating.add_argument(
        "--batch", type=options.count, default=1, metavar="N", help="pictures of one size at once"
    )
    read = parser.add_argument_group("how to read the attention")
    options.add_reading(read)
    options.add_background(read)
    options.add_masks(parser.add_argument_group("how to draw masks"))
    machine = parser.add_argument_group("where to compute")
    options.add_machine(machine)
    options.add_ray(machine)
    return parser


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to turn images into maps."""

    model: str
    device: str
    dtype: str
    spec: RecordSpec
    how: LocateSpec
    reading: ReadSpec

    @property
    def settings(self) -> dict[str, Any]:
        """What segment.json has of it: results of other settings are never mixed in."""
        own = asdict(self)
        reading = own.pop("reading")
        return {**own, **{name: reading[name] for name in ("order", "temperature", "scale")}}


class Locator:
    """A loaded model that finds concepts in images."""

    def __init__(self, job: Job):
        with models.needs_diffusers():
            from ..hosts.diffusers.families import family_of

        self.job = job
        self.pipe = models.load(job.model, *models.choose_place(job.device, job.dtype))
        family_of(self.pipe)  # says so before it takes time

    def __call__(self, pictures: list[ImageArray]) -> ConceptMaps:
        """Maps of images of one size."""
        from ..hosts.diffusers.locate import locate

        recording = locate(self.pipe, stack_images(pictures), self.job.spec, self.job.how)
        return read_maps(recording, self.job.reading)


class Actor:
    """A process of a cluster that does its share of the images."""

    def __init__(self, job: Job, out: Path, settings: dict[str, Any]):
        self.locate, self.out, self.settings = Locator(job), out, settings

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        pictures = [
            ImageFile(Path(json.loads(path)), name)
            for path, name in zip(rows["path"].tolist(), rows["name"].tolist(), strict=True)
        ]
        outcomes = list(
            segment_images(pictures, self.locate, self.out, self.settings, len(pictures))
        )
        return {
            "name": [outcome.picture.name for outcome in outcomes],
            "error": [outcome.error for outcome in outcomes],
            "skipped": [outcome.skipped for outcome in outcomes],
            "elsewhere": [outcome.elsewhere for outcome in outcomes],
        }


def _segment_on_ray(
    address: str,
    pictures: list[ImageFile],
    job: Job,
    out: Path,
    settings: dict[str, Any],
    batch: int,
) -> Iterator[Outcome]:
    from .cluster import spread

    # as JSON: names of files may be no UTF-8
    rows = [
        {"path": json.dumps(str(picture.path.resolve())), "name": picture.name}
        for picture in pictures
    ]
    named = {picture.name: picture for picture in pictures}
    for row in spread(address, rows, Actor, (job, out.resolve(), settings), batch):
        yield Outcome(named[row["name"]], row["error"], row["skipped"], row["elsewhere"])


def run(asked: argparse.Namespace) -> int:
    concepts = parse(asked.concepts, asked.background)
    for notice in concepts.notices:
        options.print_text(notice)
    options.check_seeds(asked.seed, asked.samples)
    method = Method(asked.attend, asked.space, asked.bounces)
    job = Job(
        asked.model,
        asked.device,
        asked.dtype,
        RecordSpec(concepts, asked.tokens, method, asked.blocks),
        LocateSpec(
            asked.caption, parse_noise(asked.noise), asked.samples, asked.seed, asked.megapixels
        ),
        # blocks: all of those that are recorded
        ReadSpec("all", "all", asked.order, asked.temperature, asked.scale, asked.space),
    )
    masks = options.read_masks(asked)
    settings = {**job.settings, "masks": asdict(masks), "html": asked.html}
    if asked.full_size:  # named only then: what was made before there was a choice stays done
        settings["full_size"] = True
    settings = json.loads(json.dumps(settings))
    pictures = list_images(asked.paths, without=asked.out)
    open_folder(asked.out, settings, asked.overwrite)
    todo = list_open(pictures, asked.out, settings)
    done = len(pictures) - len(todo)
    if done:
        options.print_text(f"{done} of {len(pictures)} are done already.")

    from tqdm import tqdm

    started, failed, skipped, made = time.perf_counter(), [], [], 0
    if not todo:
        outcomes = iter(())
    elif asked.ray is None:
        outcomes = segment_images(todo, Locator(job), asked.out, settings, asked.batch)
    else:
        outcomes = _segment_on_ray(asked.ray, todo, job, asked.out, settings, asked.batch)
    for outcome in tqdm(outcomes, total=len(todo), unit="picture", disable=None):
        if outcome.error:
            entry = {"picture": quote(outcome.picture.path), "error": outcome.error}
            (skipped if outcome.skipped else failed).append(entry)
        elif outcome.elsewhere:
            done += 1
        else:
            made += 1
    seconds = time.perf_counter() - started

    rate = f", {made / seconds:.2f} a second" if made else ""
    left = f", {len(skipped)} skipped" if skipped else ""
    options.print_text(
        f"{made} made, {done} were done, {len(failed)} failed{left}{rate}: {quote(asked.out)}"
    )
    for failure in (*failed, *skipped):
        options.print_text(f"  {failure['error']}")
    summary = {
        "pictures": len(pictures),
        "made": made,
        "done before": done,
        "failed": failed,
        "skipped": skipped,
        "seconds": round(seconds, 2),
        "versions": dict(models.list_versions()),
    }
    write_json(asked.out / SUMMARY, summary)
    return 1 if failed or skipped else 0
