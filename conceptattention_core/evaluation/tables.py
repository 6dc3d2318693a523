"""Tables of results: ours and, where the paper has the same row, the paper's, marked as such.

The paper's numbers are copied from arXiv 2502.04320, version 2. Nothing else here is a number that
was not measured: a row that was not run says so.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

from .metrics import Score

NOT_RUN = "not run"


@dataclass(frozen=True)
class PaperRow:
    """Percent; None where the paper has no figure. `miou` is what the paper calls mIoU."""

    method: str
    backbone: str
    accuracy: float
    miou: float
    precision: float | None = None


# The row of the paper that a variant of ours repeats, by protocol and variant (on Flux.1 schnell).
PAPER: dict[str, dict[str, PaperRow]] = {
    "imagenet-segmentation": {
        "output space": PaperRow("ConceptAttention", "Flux schnell", 83.07, 71.04, 90.45),
        "output space, no softmax": PaperRow("output, no softmax", "Flux", 78.75, 64.95, 88.39),
        "cross-attention": PaperRow("cross-attention, softmax", "Flux", 74.92, 59.90, 87.23),
        "cross-attention, no softmax": PaperRow("cross-attention", "Flux", 66.59, 49.91, 73.17),
        "value space": PaperRow("value, softmax", "Flux", 45.78, 29.68, 39.61),
        "value space, no softmax": PaperRow("value", "Flux", 45.93, 29.81, 65.79),
    },
    "voc-single": {
        "output space, no softmax": PaperRow(
            "ConceptAttention", "Flux schnell", 87.85, 76.45, 90.19
        ),
        "cross-attention, no softmax": PaperRow("raw cross-attention", "Flux", 80.37, 54.77, 89.08),
    },
    "voc-multi": {
        "output space, no softmax": PaperRow(
            "ConceptAttention", "Flux schnell", 86.99, 51.39, 87.23
        ),
        "cross-attention, no softmax": PaperRow("raw cross-attention", "Flux", 79.52, 27.04),
    },
}
# mIoU of the paper's ablation of what concepts attend to, ImageNet-Segmentation.
PAPER_ATTEND = {
    "output space": 71.04,
    "output space, attending to the image only": 61.96,
    "output space, attending to concepts only": 34.85,
    "output space, attending to nothing": 35.72,
}
# Other methods in the paper's tables, for orientation; none of them is run here.
PAPER_OTHERS: dict[str, tuple[PaperRow, ...]] = {
    "imagenet-segmentation": (
        PaperRow("ConceptAttention", "SD3.5 Turbo", 81.92, 67.47, 90.79),
        PaperRow("raw cross-attention", "SD3.5", 77.80, 63.67, 83.50),
        PaperRow("DINO self-attention", "DINO", 81.97, 69.44, 86.12),
        PaperRow("OVAM", "SDXL", 79.41, 65.02, 88.12),
        PaperRow("DAAM", "SDXL", 78.47, 64.56, 88.79),
        PaperRow("DAAM", "SD2", 64.52, 47.62, 78.01),
        PaperRow("TransInterp", "CLIP", 79.70, 61.95, 86.03),
        PaperRow("TextSpan", "CLIP", 75.21, 54.50, 81.61),
        PaperRow("CLIPasRNN", "CLIP", 74.05, 58.80, 84.80),
    ),
    "voc-single": (
        PaperRow("ConceptAttention", "SD3.5 Turbo", 83.90, 69.93, 90.02),
        PaperRow("raw cross-attention", "SD3.5", 80.22, 61.46, 86.97),
        PaperRow("DINO self-attention", "DINO", 80.71, 64.33, 88.90),
        PaperRow("OVAM", "SDXL", 73.50, 58.12, 87.91),
        PaperRow("DAAM", "SDXL", 72.76, 55.95, 88.34),
        PaperRow("DAAM", "SD2", 64.28, 45.01, 83.04),
        PaperRow("TransInterp", "CLIP", 76.90, 57.08, 86.74),
        PaperRow("TextSpan", "CLIP", 75.00, 56.24, 84.79),
        PaperRow("CLIPasRNN", "CLIP", 61.76, 41.48, 76.57),
    ),
    "voc-multi": (
        PaperRow("TextSpan", "CLIP", 73.84, 38.10),
        PaperRow("DAAM", "SDXL", 62.89, 10.97),
    ),
}

COLUMNS = {
    "imagenet-segmentation": ("accuracy", "mIoU", "mIoU (paper)", "mAP"),
    "voc-single": ("accuracy", "mIoU", "mAP"),
}
"""Of the protocols that have more than accuracy and mIoU."""


def figures(protocol: str, score: Score) -> dict[str, float | None]:
    """The figures of a score, in percent, by column."""
    precision = score.mean_precision
    values = {
        "accuracy": 100 * score.accuracy,
        "mIoU": 100 * score.miou,
        "mIoU (paper)": 100 * score.paper_miou,
        "mAP": None if precision is None else 100 * precision,
    }
    return {
        column: None if (value := values[column]) is None or math.isnan(value) else value
        for column in list_columns(protocol)
    }


def list_columns(protocol: str) -> tuple[str, ...]:
    return COLUMNS.get(protocol, ("accuracy", "mIoU"))


def write_markdown(protocol: str, totals: dict[str, Score], asked: list[str], samples: int) -> str:
    """The table of a run as Markdown: a row for each variant, with the paper's beside it."""
    paper = PAPER.get(protocol, {})
    columns = list_columns(protocol)
    head = ["variant", *columns]
    if paper:
        head += ["paper: accuracy", "paper: mIoU", "paper: mAP"]
    rows = []
    for name in asked:
        score = totals.get(name)
        own = figures(protocol, score) if score else dict.fromkeys(columns, NOT_RUN)
        row = [name, *map(_cell, own.values())]
        if paper:
            theirs = paper.get(name)
            attend = PAPER_ATTEND.get(name) if protocol == "imagenet-segmentation" else None
            row += (
                [_cell(theirs.accuracy), _cell(theirs.miou), _cell(theirs.precision)]
                if theirs
                else ["", _cell(attend), ""]
            )
        rows.append(row)
    lines = [
        f"{protocol}, {samples} pictures, percent.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    lines += map(_line, rows)
    if others := PAPER_OTHERS.get(protocol):
        lines += [
            *("", "Other methods as the paper reports them; not run here.", ""),
            _line(["method", "backbone", "accuracy", "mIoU", "mAP"]),
            _line(["---"] * 5),
            *(
                _line([r.method, r.backbone, *map(_cell, (r.accuracy, r.miou, r.precision))])
                for r in others
            ),
        ]
    return "\n".join(lines) + "\n"


def write_csv(protocol: str, totals: dict[str, Score]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", *list_columns(protocol)])
    for name, score in totals.items():
        values = figures(protocol, score).values()
        writer.writerow([name, *("" if value is None else f"{value:.4f}" for value in values)])
    return text.getvalue()


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.2f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
