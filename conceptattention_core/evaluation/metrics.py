"""How right a segmentation is: pixel accuracy, intersection over union, average precision.

Two figures bear the name mIoU in the paper's tables. The ordinary one is the mean over classes of
intersection over union. On ImageNet-Segmentation the paper's pools the pixels of foreground and
background in both bins, so that it is accuracy / (2 - accuracy): a function of accuracy alone
(83.07 gives exactly its 71.04). Both are reported here, under different names.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IGNORE = 255
"""The label of pixels that nobody judges."""


@dataclass
class Score:
    """Counts over any number of images. Add images, or other scores; read the figures."""

    right: int = 0
    judged: int = 0
    both: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    either: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    precisions: list[float] = field(default_factory=list)

    def add(self, found: np.ndarray, true: np.ndarray, heat: np.ndarray | None = None) -> None:
        """An image: class of each pixel `h w` as found and as it is; of a binary task also heat.

        `heat` (h w, 0..1) says how much of class 1 is at a pixel, for average precision.
        """
        judged = true != IGNORE
        found, true = found[judged], true[judged]
        self.right += int((found == true).sum())
        self.judged += int(judged.sum())
        for label in np.union1d(found, true).tolist():
            self.both[label] += int(((found == label) & (true == label)).sum())
            self.either[label] += int(((found == label) | (true == label)).sum())
        if heat is not None:
            self.precisions.append(paper_precision(heat[judged], true))

    def merge(self, other: Score) -> None:
        """Add what another score has counted."""
        self.right += other.right
        self.judged += other.judged
        for own, others in ((self.both, other.both), (self.either, other.either)):
            for label, count in others.items():
                own[label] += count
        self.precisions += other.precisions

    def counts(self) -> dict[str, Any]:
        """What JSON can hold, for `of_counts`."""
        return {
            "right": self.right,
            "judged": self.judged,
            "classes": {str(k): [self.both[k], n] for k, n in sorted(self.either.items())},
            "precisions": self.precisions,
        }

    @classmethod
    def of_counts(cls, counts: dict[str, Any]) -> Score:
        score = cls(counts["right"], counts["judged"], precisions=list(counts["precisions"]))
        for label, (both, either) in counts["classes"].items():
            score.both[int(label)], score.either[int(label)] = both, either
        return score

    @property
    def accuracy(self) -> float:
        return self.right / self.judged if self.judged else math.nan

    @property
    def ious(self) -> dict[int, float]:
        """For each class that was found or is there: intersection over union."""
        return {label: self.both[label] / n for label, n in sorted(self.either.items()) if n}

    @property
    def miou(self) -> float:
        return float(np.mean(list(self.ious.values()))) if self.ious else math.nan

    @property
    def paper_miou(self) -> float:
        """What the paper calls mIoU on ImageNet-Segmentation."""
        return self.accuracy / (2 - self.accuracy)

    @property
    def mean_precision(self) -> float | None:
        """mAP: the mean of the images' average precisions."""
        return float(np.mean(self.precisions)) if self.precisions else None


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """The sum over thresholds of precision times the gain in recall, both arrays of one axis.

    Equal scores share a threshold, as in scikit-learn's `average_precision_score`.
    """
    total = int(positive.sum())
    if total == 0:
        return 0.0
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each threshold
    hits = np.cumsum(positive)[last]
    precision, recall = hits / (last + 1), hits / total
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def paper_precision(heat: np.ndarray, true: np.ndarray) -> float:
    """The paper's average precision of an image: background and foreground in one ranking.

    `heat` of one axis, 0..1; `true` 0 or 1.
    """
    scores = np.concatenate([1 - heat, heat])
    return average_precision(scores, np.concatenate([true == 0, true == 1]))
