"""Draw the loss of a training run: python -m demo.curves --work DIR --out loss.png"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from .training.recipe import RECIPES


def read_log(path: Path) -> tuple[list[int], list[float]]:
    """Steps and smoothed losses of a log."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]


def draw_curves(work: Path, out: Path) -> None:
    sizes = [schedule.pixels for schedule in RECIPES["cpu"].flow]
    logs = {f"flow, {pixels} px": work / f"flow-{pixels}.csv" for pixels in sizes}
    figure, axes = plt.subplots(figsize=(7, 3), dpi=120, layout="constrained")
    start = 0
    for label, log in logs.items():
        if log.exists():
            steps, losses = read_log(log)
            axes.plot([start + step for step in steps], losses, label=label)
            start += steps[-1]
    axes.set(xlabel="step", ylabel="flow-matching loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the loss of a training run.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("loss.png"))
    given = parser.parse_args()
    draw_curves(given.work, given.out)


if __name__ == "__main__":
    main()
