"""`evaluate`: the paper's tables, and the demo's own."""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..attention import ATTEND, SPACES, Method
from ..evaluation.metrics import Score
from ..evaluation.protocols import PROTOCOLS, Protocol
from ..evaluation.run import LINES, VARIANTS, Variant, make_specs, read_lines, total, write_line
from ..evaluation.tables import figures, write_csv, write_markdown
from ..files import write_json, write_text
from ..locating import parse_noise
from ..maps import ORDERS, SCALES, ReadSpec
from ..recording import TOKENS
from ..texts import clean_text
from . import models, options
from .judging import Actor, Job, Judge
from .segmenting import open_folder

SETTINGS, RESULTS = "evaluate.json", "results*.jsonl"
SCENES = 200  # images


def add(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure how right the maps are, on pictures with known masks",
        description="Measure pixel accuracy, mIoU and mAP by the paper's protocols, or on drawn "
        "scenes. A run that was stopped goes on where it was.",
        epilog=options.DEFAULTS_NOTE,
        usage="%(prog)s PROTOCOL --model DIR_OR_ID --data PATH --out DIR [options]",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)

    what = parser.add_argument_group("what")
    what.add_argument(
        "protocol", choices=list(PROTOCOLS), metavar="PROTOCOL", help="|".join(PROTOCOLS)
    )
    options.add_model(what)
    what.add_argument(
        "--data",
        type=options.path,
        metavar="PATH",
        help="gtsegs_ijcv.mat, or a VOC2012 folder; scenes are drawn and need none",
    )
    what.add_argument(
        "--names",
        type=options.path,
        metavar="FILE",
        help="names of WordNet ids: 'n01440764 tench' a line",
    )
    options.add_out(what)
    what.add_argument("--limit", type=options.count, metavar="N", help="only the first N pictures")
    what.add_argument(
        "--all-variants", action="store_true", help="every row of the paper's ablations"
    )
    what.add_argument("--curves", action="store_true", help="also each block and noise level")
    what.add_argument(
        "--figures",
        type=options.whole(0, 1000),
        default=8,
        metavar="N",
        help="8; pictures drawn beside their truth",
    )
    what.add_argument(
        "--shard", type=_shard, metavar="I/N", help="only the I-th of N parts, from 1"
    )

    how = parser.add_argument_group("otherwise than the protocol")
    how.add_argument(
        "--space", choices=list(SPACES), default="output", metavar="NAME", help=" | ".join(SPACES)
    )
    how.add_argument(
        "--attend",
        choices=list(ATTEND),
        default="concepts and image",
        metavar="NAME",
        help=" | ".join(ATTEND),
    )
    options.add_bounces(how)
    how.add_argument(
        "--edges", action="store_true", default=None, help="let maps follow the pictures' edges"
    )
    how.add_argument(
        "--softmax", action=argparse.BooleanOptionalAction, help="whether concepts compete"
    )
    how.add_argument("--order", **options.one_of("what comes first", ORDERS))
    how.add_argument("--scale", **options.one_of("how scores compete", SCALES))
    how.add_argument("--tokens", **options.one_of("tokens of a concept that count", TOKENS))
    how.add_argument("--blocks", type=clean_text, metavar="RANGE", help="blocks that are read")
    how.add_argument("--noise", type=clean_text, metavar="T", help="noise levels, comma-separated")
    how.add_argument("--samples", type=options.count, metavar="N", help="noises that are averaged")
    how.add_argument("--size", type=options.pixels, metavar="PIXELS", help="side of the pictures")
    how.add_argument("--seed", type=options.seed, default=0, metavar="N", help="of the noise")
    machine = parser.add_argument_group("where to compute")
    options.add_machine(machine)
    options.add_ray(machine)
    return parser


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    few = len(text) < 20  # digits beyond some thousands are no int
    if not (few and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"'{text}' is no part such as 2/5")
    return int(index), int(count)


def run(asked: argparse.Namespace) -> int:
    job = _read_job(asked)
    settings = json.loads(
        json.dumps({**job.settings, "versions": dict(models.list_versions())}, default=str)
    )
    open_folder(asked.out, settings, asked.overwrite, SETTINGS)
    data = job.open()
    keys = list(data.keys[: asked.limit])
    lines = asked.out / LINES
    if asked.shard:
        index, count = asked.shard
        keys = keys[index - 1 :: count]
        lines = asked.out / f"results-{index}-of-{count}.jsonl"
    if asked.overwrite:
        lines.unlink(missing_ok=True)
    done = read_lines(sorted(asked.out.glob(RESULTS)))
    todo = [key for key in keys if key not in done]

    from tqdm import tqdm

    started = time.perf_counter()
    here = asked.ray is None
    judge = Judge(job, data) if (todo and here) or asked.figures > 0 else None
    results = _judge_here(judge, todo) if here else _judge_on_ray(asked.ray, job, todo)
    for key, scores in tqdm(results, total=len(todo), unit="picture", disable=None):
        write_line(lines, key, scores)
    seconds = (time.perf_counter() - started) / len(todo) if todo else None

    options.print_text(_write_results(asked, job, seconds))
    if judge is not None and asked.figures > 0:
        _draw(judge, keys[: asked.figures], asked.out)
    return 0


def _read_job(asked: argparse.Namespace) -> Job:
    changes: dict[str, Any] = {
        "picture": asked.size if asked.protocol != "scenes" else None,
        "blocks": asked.blocks,
        "noise": parse_noise(asked.noise) if asked.noise else None,
        "samples": asked.samples,
        "softmax": asked.softmax,
        "edges": asked.edges,
    }
    own = _choose_variant(asked, PROTOCOLS[asked.protocol].changed(**changes))
    others = [variant for variant in VARIANTS if variant != own] if asked.all_variants else []
    return Job(
        asked.protocol,
        asked.data and asked.data.resolve(),
        asked.names and asked.names.resolve(),
        asked.size,
        asked.limit or SCENES,
        changes,
        (own, *others),
        asked.tokens,
        ReadSpec(blocks="all", order=asked.order, scale=asked.scale),
        asked.seed,
        asked.curves,
        asked.model,
        asked.device,
        asked.dtype,
    )


def _write_results(asked: argparse.Namespace, job: Job, seconds: float | None) -> str:
    """The table, a report and curves from all results in the folder; the table as Markdown."""
    done = read_lines(sorted(asked.out.glob(RESULTS)))
    totals = total(done)
    shown = [variant.name for variant in dict.fromkeys((*job.variants, *VARIANTS))]
    table = write_markdown(asked.protocol, totals, shown, len(done))
    write_text(asked.out / "table.md", table)
    write_text(asked.out / "table.csv", write_csv(asked.protocol, totals))
    report = {
        "protocol": asked.protocol,
        "pictures": len(done),
        "figures": {name: figures(asked.protocol, score) for name, score in totals.items()},
        "classes": {name: score.ious for name, score in totals.items()},
        "seconds a picture": None if seconds is None else round(seconds, 3),
    }
    write_json(asked.out / "report.json", report)
    if asked.curves:
        from ..evaluation.figures import save_curves

        save_curves(asked.out / "curves.png", totals)
    return table


def _choose_variant(asked: argparse.Namespace, protocol: Protocol) -> Variant:
    method = Method(asked.attend, asked.space, asked.bounces)
    for variant in VARIANTS:
        if (variant.method, variant.softmax) == (method, protocol.softmax):
            return variant
    name = f"{asked.space} space, attending to {asked.attend}"
    if asked.bounces:
        name += f", {asked.bounces} bounce" + "s" * (asked.bounces > 1)
    return Variant(name if protocol.softmax else f"{name}, no softmax", method, protocol.softmax)


def _judge_here(judge: Judge | None, keys: list[str]) -> Iterator[tuple[str, Any]]:
    if judge is not None:
        yield from ((key, judge.scores(key)) for key in keys)


def _judge_on_ray(address: str, job: Job, keys: list[str]) -> Iterator[tuple[str, Any]]:
    from .cluster import spread

    if keys:
        for row in spread(address, [{"key": key} for key in keys], Actor, (job,)):
            counts = json.loads(row["scores"])
            yield row["key"], {name: Score.of_counts(one) for name, one in counts.items()}


def _draw(judge: Judge, keys: list[str], out: Path) -> None:
    """Maps of the first images beside the truth."""
    from ..evaluation.figures import draw_row, save_rows
    from ..maps import read_maps

    rows, plan = [], judge.plan
    for key in keys:
        sample = judge.data.read(key)
        image = plan.protocol.image(sample)
        recording = judge.record(image, *make_specs(sample, plan, plan.variants[0].method))
        maps = read_maps(recording, plan.reading)
        truth = plan.protocol.truth(sample)
        rows.append(draw_row(image, truth, maps.maps[0], maps.concepts.names))
    save_rows(out / "maps.png", rows)
