"""Differences to the baseline with the same seed, with Student's t interval over seeds.

    d_s = metric(variant, seed s) - metric(vanilla, seed s)
    interval = mean(d) +- t_{(1 + level) / 2, n - 1} std(d) / sqrt(n)

Pairing removes what the two runs of a seed have in common: initial weights, order of the data,
noise. A single seed has a difference but no spread, so it has no interval.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "none shown", "one seed"]


@dataclass(frozen=True)
class Difference:
    """Difference of a variant to the baseline; `low`, `high` are None with fewer than two seeds."""

    seeds: int
    mean: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        return None if self.high is None or self.low is None else (self.high - self.low) / 2

    def verdict(self, rising: bool) -> Verdict:
        """Return the verdict on the variant by its interval; `rising`: more is better."""
        if self.low is None or self.high is None:
            return "one seed"
        if self.low <= 0 <= self.high:
            return "none shown"
        return "better" if (self.low > 0) == rising else "worse"


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], level: float = 0.95
) -> Difference | None:
    """Return the mean difference of a variant to the baseline, over the seeds that both have.

    Returns None when there is no such seed. Raises `ValueError` unless 0 < level < 1.
    """
    from scipy.stats import t

    check_level(level)
    differences = [values[seed] - baseline[seed] for seed in values if seed in baseline]
    if not differences:
        return None
    n, mean = len(differences), statistics.fmean(differences)
    if n == 1:
        return Difference(1, mean, None, None)
    error = statistics.stdev(differences) / math.sqrt(n)
    half = float(t.ppf((1 + level) / 2, n - 1)) * error
    return Difference(n, mean, mean - half, mean + half)


def rounded(value: float, spread: float | None, sign: str = "") -> str:
    """Return `value` rounded to the second digit of its spread; `sign` "+" shows a plus too."""
    if not spread or not math.isfinite(spread):
        return f"{value:{sign}.4g}"
    return f"{value:{sign}.{max(0, 1 - math.floor(math.log10(spread)))}f}"


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"--level {level}: it must be between 0 and 1, as 0.95")


def spread(values: Mapping[int, float]) -> float | None:
    """Return the standard deviation over seeds, None for a single seed."""
    return statistics.stdev(values.values()) if len(values) > 1 else None
