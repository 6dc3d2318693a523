"""One pass over a data set: every variant on every sample, kept line by line.

Results are counts, so that a run may stop, go on, and be split over machines: figures come from
the sum of all lines. A line is written whole; a torn last line is dropped and done again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from .. import ConceptAttentionError
from ..attention import Method
from ..files import claimed, naming, quote
from ..locating import LocateSpec
from ..maps import ReadSpec, choose_scores, read_maps
from ..pixels import ImageArray
from ..recording import Recording, RecordSpec
from .datasets import Sample
from .metrics import Score
from .protocols import Protocol

LINES = "results.jsonl"
CURVE_NOISE = (0.1, 0.3, 0.5, 0.7, 0.9)

Record = Callable[[ImageArray, RecordSpec, LocateSpec], Recording]
"""From an image to the recording of it."""


@dataclass(frozen=True)
class Variant:
    """One way to read the same model: a row of the paper's ablation tables."""

    name: str
    method: Method
    softmax: bool


OUTPUT = "output space"
VARIANTS = (
    Variant(OUTPUT, Method(), True),
    Variant("output space, no softmax", Method(), False),
    Variant("output space, attending to the image only", Method(attend="image"), True),
    Variant("output space, attending to concepts only", Method(attend="concepts"), True),
    Variant("output space, attending to nothing", Method(attend="nothing"), True),
    Variant("cross-attention", Method(space="cross-attention"), True),
    Variant("cross-attention, no softmax", Method(space="cross-attention"), False),
    Variant("value space", Method(space="value"), True),
    Variant("value space, no softmax", Method(space="value"), False),
)


@dataclass(frozen=True)
class Plan:
    """What is done with every sample. `curves` adds every block and several noise levels."""

    protocol: Protocol
    variants: tuple[Variant, ...]
    tokens: str = "all"
    reading: ReadSpec = field(default_factory=lambda: ReadSpec(blocks="all"))
    """Of what was recorded by the protocol's blocks; curves read one block or step at a time."""
    seed: int = 0
    curves: bool = False


def evaluate(sample: Sample, plan: Plan, record: Record) -> dict[str, Score]:
    """The score of a sample by every variant, and for the first one by block and noise level."""
    protocol = plan.protocol
    image = protocol.image(sample)
    recordings: dict[Method, Recording] = {}
    scores = {}
    for variant in plan.variants:
        if variant.method not in recordings:
            recordings[variant.method] = record(image, *make_specs(sample, plan, variant.method))
        scores[variant.name] = _judge(sample, plan, recordings[variant.method], variant.softmax)
    if plan.curves:
        scores.update(_follow_curves(sample, plan, record))
    return scores


def make_specs(sample: Sample, plan: Plan, method: Method) -> tuple[RecordSpec, LocateSpec]:
    """What is recorded of a sample, and how the model looks at it."""
    protocol = plan.protocol
    # a sample's noise depends on the sample alone, in whatever order and wherever it is done
    seed = (plan.seed + zlib.crc32(sample.key.encode())) % 2**64
    caption = protocol.caption(tuple(sample.classes.values()))
    return (
        RecordSpec(protocol.concepts(sample), plan.tokens, method, protocol.blocks),
        LocateSpec(caption, protocol.noise, protocol.samples, seed),
    )


def _judge(
    sample: Sample,
    plan: Plan,
    recording: Recording,
    softmax: bool,
    steps: str = "all",
    blocks: str = "all",
) -> Score:
    if softmax:
        maps = read_maps(recording, replace(plan.reading, steps=steps, blocks=blocks)).maps
    else:
        maps = choose_scores(recording, steps, blocks).mean((1, 2))
    return plan.protocol.score(sample, maps[0])


def _follow_curves(sample: Sample, plan: Plan, record: Record) -> Iterator[tuple[str, Score]]:
    """The paper's figure 7, from one recording: each block, and each of several noise levels."""
    first = plan.variants[0]
    spec, how = make_specs(sample, plan, first.method)
    spec, how = replace(spec, blocks="all"), replace(how, noise=CURVE_NOISE)
    recording = record(plan.protocol.image(sample), spec, how)
    middle = str(len(CURVE_NOISE) // 2)
    for block, _ in recording.blocks:  # one image has them all apart
        score = _judge(sample, plan, recording, first.softmax, middle, str(block))
        yield f"block {block}", score
    for step, level in enumerate(CURVE_NOISE):
        score = _judge(sample, plan, recording, first.softmax, str(step), plan.protocol.blocks)
        yield f"noise {level}", score


# --- results, line by line ------------------------------------------------------------------------


def write_line(file: Path, key: str, scores: dict[str, Score]) -> None:
    """Add the scores of one sample; they are on the disk when this returns."""
    counts = {name: score.counts() for name, score in scores.items()}
    try:
        line = json.dumps({"key": key, "scores": counts}, allow_nan=False) + "\n"
    except ValueError:
        raise ConceptAttentionError(f"The scores of {key} are not finite.") from None
    with claimed(file.parent, file.name), naming(file), file.open("a+b") as lines:
        _drop_torn_end(lines)
        lines.write(line.encode())
        lines.flush()
        os.fsync(lines.fileno())


def _drop_torn_end(lines: BinaryIO) -> None:
    """Cut off a line that was torn while it was written: its sample is done again."""
    size = lines.seek(0, os.SEEK_END)
    if size:
        lines.seek(size - 1)
        if lines.read(1) != b"\n":
            lines.seek(0)
            lines.truncate(lines.read().rfind(b"\n") + 1)


def read_lines(files: Iterable[Path]) -> dict[str, dict[str, Score]]:
    """The scores of every sample that is done, by key. A torn last line is not done.

    Files are left as they are, since other processes may be adding to them.
    """
    done: dict[str, dict[str, Score]] = {}
    for file in files:
        if not file.exists():
            continue
        *lines, _ = file.read_bytes().split(b"\n")  # what has no end is torn
        for number, line in enumerate(lines, start=1):
            try:
                for entry in _parse(line.decode()):
                    done[entry["key"]] = {
                        name: Score.of_counts(counts) for name, counts in entry["scores"].items()
                    }
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise ConceptAttentionError(
                    f"{quote(file)} is damaged at line {number}: remove that line, and its sample "
                    "is done again."
                ) from None
    return done


def _parse(line: str) -> Iterator[Any]:
    """The values of a line: more than one where an earlier version went on after a torn end."""
    end = 0
    while end < len(line):
        value, end = json.JSONDecoder().raw_decode(line, end)
        yield value


def total(done: dict[str, dict[str, Score]]) -> dict[str, Score]:
    """One score per variant, over all samples in the order of their keys."""
    totals: dict[str, Score] = {}
    for key in sorted(done):
        for name, score in done[key].items():
            totals.setdefault(name, Score()).merge(score)
    return totals
