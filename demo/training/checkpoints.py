"""Checkpoints that survive an interruption, a log of the loss, and a clock for the schedule."""

from __future__ import annotations

import csv
import math
import os
import time
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside the target first, so that a crash never leaves half a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state saved at `path`, or None when there is none yet."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def log_row(path: Path, row: dict[str, float]) -> None:
    """Append a row to a CSV file, with a header when the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if fresh:
            writer.writeheader()
        writer.writerow(row)


class Clock:
    """How much of a stage is over, by steps or by minutes, carried over interruptions."""

    def __init__(
        self, minutes: float, steps: int | None = None, step: int = 0, seconds: float = 0.0
    ):
        self.minutes, self.steps = minutes, steps
        self.step = step
        self._before, self._start = seconds, time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    @property
    def progress(self) -> float:
        """0 at the start of the stage, 1 at its planned end."""
        done = self.step / self.steps if self.steps else self.seconds / (60 * self.minutes)
        return min(1.0, done)

    def state(self) -> dict[str, float | None]:
        """What Clock(**state) goes on from."""
        return {
            "minutes": self.minutes,
            "steps": self.steps,
            "step": self.step,
            "seconds": self.seconds,
        }


def learning_rate(
    peak: float, progress: float, step: int, warm_up: int, floor: float = 0.05
) -> float:
    """Linear warm-up in steps, then a cosine over the whole stage down to `floor` of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * cosine)
