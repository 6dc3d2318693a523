"""Images of a run: maps beside the truth, and how right each block and noise level is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from .. import ConceptAttentionError
from ..output.fonts import find_font
from ..output.render import concept_colour
from ..pixels import ImageArray
from .metrics import IGNORE, Score

SIDE = 192  # pixels of a tile
GAP, LINE = 6, 20


def draw_row(
    image: ImageArray, true: np.ndarray, maps: Tensor, names: tuple[str, ...]
) -> ImageArray:
    """Image, true labels, and the map of each concept `c y x` under its name, side by side."""
    import cv2

    labels = np.zeros((*true.shape, 3), np.uint8)
    for label in np.unique(true).tolist():
        labels[true == label] = (128, 128, 128) if label == IGNORE else _shade(label)
    heat = interpolate(maps[None], (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
    low, high = heat.min(), heat.max()
    grey = ((heat - low) / (high - low).clamp_min(1e-12) * 255).byte().numpy()
    tiles = [
        cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA),
        cv2.resize(labels, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST),
        *(
            cv2.cvtColor(cv2.applyColorMap(one, cv2.COLORMAP_PLASMA), cv2.COLOR_BGR2RGB)
            for one in grey
        ),
    ]
    titled = [_title(tile, title) for tile, title in zip(tiles, ("picture", "truth", *names))]
    gap = np.full((SIDE + LINE, GAP, 3), 255, np.uint8)
    return np.concatenate([part for tile in titled for part in (tile, gap)][:-1], axis=1)


def _title(tile: ImageArray, title: str) -> ImageArray:
    line = Image.new("RGB", (tile.shape[1], LINE), "white")
    ImageDraw.Draw(line).text((0, 2), title, "black", find_font(title, 14))
    return np.concatenate([np.asarray(line), tile])


def _shade(label: int) -> tuple[int, int, int]:
    return (0, 0, 0) if label == 0 else concept_colour(label - 1)


def save_rows(file: Path, rows: list[ImageArray]) -> None:
    """Rows of any width below each other."""
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    Image.fromarray(np.concatenate(padded)).save(file)


def save_curves(file: Path, totals: dict[str, Score]) -> None:
    """mIoU per block and per noise level, as the paper's figure 7."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ConceptAttentionError(
            "Curves need matplotlib: pip install 'conceptattention[evaluation]'"
        ) from None
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("block", "noise"), strict=True):
        named = {
            float(name.removeprefix(f"{kind} ")): 100 * score.miou
            for name, score in totals.items()
            if name.startswith(f"{kind} ")
        }
        places = sorted(named)
        axes.plot(places, [named[place] for place in places], "o-")
        axes.set_xlabel({"block": "block", "noise": "noise level t"}[kind])
        axes.grid(alpha=0.3)
        if kind == "block":
            axes.set_xticks(places, [f"{place:.0f}" for place in places])
            axes.set_ylabel("mIoU, percent")
    figure.savefig(file, dpi=110)
