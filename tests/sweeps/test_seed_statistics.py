"""Paired intervals against SciPy's t test."""

import numpy as np
import pytest

from sweeps.seed_statistics import Difference, paired_difference, rounded


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_interval_is_that_of_the_paired_t_test(level):
    from scipy.stats import ttest_rel

    generator = np.random.default_rng(0)
    baseline = dict(enumerate(generator.normal(5, 1, 6)))
    values = {seed: value - 0.5 + generator.normal(0, 0.2) for seed, value in baseline.items()}
    expected = ttest_rel(list(values.values()), list(baseline.values())).confidence_interval(level)
    difference = paired_difference(values, baseline, level)
    assert difference.low == pytest.approx(expected.low) and difference.high == pytest.approx(
        expected.high
    )
    assert difference.mean == pytest.approx(np.mean([values[s] - baseline[s] for s in values]))


def test_only_seeds_that_both_have_are_compared():
    difference = paired_difference({0: 2.0, 1: 3.0, 7: 100.0}, {0: 1.0, 1: 1.0, 2: -100.0})
    assert (difference.seeds, difference.mean) == (2, 1.5)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_one_seed_has_no_interval_and_no_verdict():
    difference = paired_difference({3: 2.0}, {3: 1.0})
    assert difference == Difference(1, 1.0, None, None) and difference.half_width is None
    assert difference.verdict(rising=False) == "one seed"


@pytest.mark.parametrize(
    ("low", "high", "rising", "verdict"),
    [
        (-2, -1, False, "better"),
        (-2, -1, True, "worse"),
        (1, 2, False, "worse"),
        (1, 2, True, "better"),
        (-1, 2, False, "none shown"),
        (0, 2, True, "none shown"),
    ],
)
def test_verdict_needs_an_interval_without_zero(low, high, rising, verdict):
    assert Difference(3, (low + high) / 2, low, high).verdict(rising) == verdict


def test_level_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"--level 95: it must be between 0 and 1"):
        paired_difference({0: 1.0}, {0: 1.0}, 95)


def test_rounding_goes_by_the_spread():
    assert rounded(0.123456, 0.0345) == "0.123"
    assert rounded(123.456, 25.0) == "123"
    assert rounded(0.5, 0.012, "+") == "+0.500"
    assert rounded(1 / 3, None) == "0.3333"
