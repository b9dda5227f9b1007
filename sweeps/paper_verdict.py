"""Verdicts on rows: ours against the paper's, and when a row may be called reproduced.

    reproduced:  |ours - published| <= 2 s,  s the standard deviation over seeds
    one seed:    published lies in the bootstrap's 95 % interval

and only with 50,000 samples against ADM's reference, with the recipe's settings, all of which were
published. Everything else has a verdict that says why not.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.metric_names import FID, PIXELS
from sweeps.paper_rows import PaperRow

SAMPLES = 50_000
REFERENCE = ("mu", "sigma", "mu_s", "sigma_s")
"""statistics that ADM's reference holds, of the whole training set"""
REFERENCE_IMAGES = 10_000


@dataclass(frozen=True)
class Scored:
    """An evaluated set of samples: `record` is its metrics file."""

    variant: str
    seed: int
    step: int | None
    record: dict[str, Any]

    def value(self, metric: str) -> float:
        return self.record["metrics"][metric]


@dataclass(frozen=True)
class Ours:
    """The value of a row, and half of the interval that it is judged by."""

    value: float
    half_width: float | None
    basis: str
    """what the interval is of, with the number of seeds"""
    variant: str = ""
    """of a sweep: the best"""


def ours(row: PaperRow, scored: Sequence[Scored], metric: str) -> Ours | None:
    """Return a row's value from its last checkpoints; None where none is scored or meant.

    A curve's published value is that of its last step, so an earlier one is not the row's value.

    Args:
        scored: of one origin, at least one for each variant that counts.
    """
    end = max((s.step or 0 for s in scored), default=0)
    last = [s for s in scored if (s.step or 0) == end]
    if not last or row.summary == "each" or (metric == FID and end < curve_end(row)):
        return None
    if row.summary == "best":
        sign = 1 if metric in (FID, PIXELS) else -1
        names = sorted({s.variant for s in last})
        best = min(names, key=lambda name: sign * statistics.fmean(values(last, metric, name)))
        return over_seeds([s for s in last if s.variant == best], metric, best)
    if row.summary == "mean":
        means = [statistics.fmean(values(last, metric, v)) for v in {s.variant for s in last}]
        spread = 2 * statistics.stdev(means) if len(means) > 1 else None
        return Ours(statistics.fmean(means), spread, f"2 sd over {len(means)} variants")
    return over_seeds(last, metric)


def curve_end(row: PaperRow) -> int:
    """Return the last step of a row's curve, 0 of a row without one."""
    return max(row.curve, default=0)


def values(scored: Sequence[Scored], metric: str, variant: str) -> list[float]:
    return [s.value(metric) for s in scored if s.variant == variant]


def over_seeds(scored: Sequence[Scored], metric: str, variant: str = "") -> Ours:
    """Return the mean over seeds with two standard deviations; of one, with its bootstrap's."""
    numbers = [s.value(metric) for s in scored]
    if len(numbers) > 1:
        half = 2 * statistics.stdev(numbers)
        return Ours(statistics.fmean(numbers), half, f"2 sd over {len(numbers)} seeds", variant)
    interval = scored[0].record.get("intervals", {}).get(metric)
    if not interval:
        return Ours(numbers[0], None, "one seed, no interval", variant)
    return Ours(numbers[0], (interval[1] - interval[0]) / 2, "bootstrap of one seed", variant)


def verdict(
    row: PaperRow, scored: Sequence[Scored], changed: Sequence[str], miniature: bool = False
) -> str:
    """Return "reproduced", "differs", or why a row can be neither."""
    if miniature:
        return "miniature: not comparable"
    published = row.published.get(FID)
    if published is None:
        return "no published value"
    problem = incomparable(scored, changed)
    if problem:
        return f"not comparable: {problem}"
    estimate = ours(row, scored, FID)
    if estimate is None:  # of a curve: other rows with a published value have one of their own
        return f"its value is that of step {curve_end(row):,}, which is not scored yet"
    if estimate.half_width is None:
        return "no interval: more --seeds, or --bootstrap in its [evaluate]"
    near = abs(estimate.value - published) <= estimate.half_width
    if row.summary == "best":
        return "a sweep: near" if near else "a sweep: not near"
    if row.guessed:
        return "agrees, with settings guessed" if near else "differs, with settings guessed"
    return "reproduced" if near else "differs"


def incomparable(scored: Sequence[Scored], changed: Sequence[str]) -> str | None:
    """Return what of the samples, the reference or the settings is not as published."""
    if changed:
        return ", ".join(changed)
    for one in scored:
        count, reference = one.record.get("count"), one.record.get("reference", {})
        if count != SAMPLES:
            return f"{count:,} samples, not {SAMPLES:,}" if count else "number of samples unknown"
        stored = reference.get("stored_statistics", ())
        if set(REFERENCE) - set(stored) or reference.get("images") != REFERENCE_IMAGES:
            return "the reference is not ADM's VIRTUAL_imagenet256_labeled.npz"
    return None
