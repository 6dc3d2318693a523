"""What figures of costs are made with: intervals and the formula of attention's FLOPs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.flops import FORMULAS
from bench.sampling import interval, shown


def test_the_interval_of_a_median_is_that_of_its_ranks():
    # as in tables of the sign test: of 31 values the 10th and the 22nd, of 20 the 6th and the 15th
    assert interval([float(n) for n in range(31, 0, -1)]) == (10, 22)
    assert interval([float(n) for n in range(1, 21)]) == (6, 15)
    assert interval([3.0, 1.0, 2.0]) == (1, 3)


@pytest.mark.parametrize(
    ("low", "high", "noise"), [(0.99, 1.02, True), (1.0, 1.1, True), (1.01, 1.1, False)]
)
def test_a_ratio_that_may_be_1_is_called_noise(low, high, noise):
    assert ("noise" in shown({"median": 1.01, "interval": [low, high]})) == noise


def test_attention_on_a_cpu_is_counted():
    query, key = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 7, 8)
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with torch.inference_mode(), counter:
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
    assert counter.get_total_flops() == 2 * 2 * (2 * 5 * 7 * 8)
