"""The figures of the evaluation, against hand-worked cases and scikit-learn."""

import numpy as np
import pytest
from conceptattention.conceptattention_core.evaluation.metrics import (
    IGNORE,
    Score,
    average_precision,
    paper_precision,
)
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

LABELS = arrays(np.uint8, (5, 7), elements=some.sampled_from([0, 1, 2, IGNORE]))
FOUND = arrays(np.uint8, (5, 7), elements=some.sampled_from([0, 1, 2]))


def score(*pairs):
    counted = Score()
    for found, true in pairs:
        counted.add(np.array(found), np.array(true))
    return counted


def test_a_case_worked_by_hand():
    counted = score(([[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, IGNORE, 1]]))
    assert counted.accuracy == 3 / 5
    assert counted.ious == {0: 2 / 4, 1: 1 / 3}
    assert counted.miou == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_the_papers_other_miou_follows_from_accuracy():
    counted = Score(right=8307, judged=10000)
    assert round(100 * counted.paper_miou, 2) == 71.04
    # foreground and background pooled in both bins
    right, wrong = 8307, 1693
    assert counted.paper_miou == pytest.approx(right / (right + 2 * wrong))


@given(found=FOUND, true=LABELS)
def test_counts_agree_with_scikit_learn(found, true):
    metrics = pytest.importorskip("sklearn.metrics")
    judged = true != IGNORE
    if not judged.any():
        return
    counted = score((found, true))
    assert counted.accuracy == pytest.approx(metrics.accuracy_score(true[judged], found[judged]))
    expected = metrics.jaccard_score(true[judged], found[judged], average="macro")
    assert counted.miou == pytest.approx(expected)


@given(first=FOUND, second=FOUND, true=LABELS)
def test_scores_add_up_whatever_the_shards(first, second, true):
    together = score((first, true), (second, true))
    apart = score((first, true))
    apart.merge(score((second, true)))
    assert apart.right == together.right and apart.judged == together.judged
    assert apart.ious == together.ious


@given(
    heat=arrays(np.float64, 24, elements=some.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])),
    true=arrays(np.uint8, 24, elements=some.integers(0, 1)),
)
def test_average_precision_agrees_with_scikit_learn(heat, true):
    metrics = pytest.importorskip("sklearn.metrics")
    if true.any():
        expected = metrics.average_precision_score(true, heat)
        assert average_precision(heat, true == 1) == pytest.approx(expected)
    both = np.concatenate([true == 0, true == 1])
    expected = metrics.average_precision_score(both, np.concatenate([1 - heat, heat]))
    assert paper_precision(heat, true) == pytest.approx(expected)


def test_pixels_that_nobody_judges_count_nowhere():
    true = np.array([[0, 1, IGNORE, IGNORE]])
    heat = np.array([[0.1, 0.9, 0.9, 0.1]])
    counted = Score()
    counted.add(np.array([[0, 1, 1, 2]]), true, heat)
    assert counted.accuracy == 1
    assert counted.ious == {0: 1, 1: 1}
    assert counted.mean_precision == 1


def test_without_heat_there_is_no_precision():
    assert score(([[0]], [[0]])).mean_precision is None
