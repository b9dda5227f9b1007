"""Results of a study of layer pairs so far, over the finished seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.cells import Cell, results, state
from sweeps.metric_names import RISING
from sweeps.pair_grid import Pair, PairPoint
from sweeps.pair_study import PairStudy
from sweeps.seed_statistics import Difference, check_level, paired_difference


@dataclass(frozen=True)
class Row:
    """A pair and weight at a step, over the finished seeds; `pair` None is vanilla."""

    pair: Pair | None
    weight: float
    step: int
    values: dict[int, float]
    """{seed: metric}"""
    difference: Difference | None
    """difference to vanilla of the same seeds; None for vanilla itself and without such a seed"""


@dataclass(frozen=True)
class Change:
    """A pair and weight whose difference to vanilla has an interval: mean +- half_width."""

    row: Row
    student: int
    teacher: int
    mean: float
    low: float
    high: float
    half_width: float


def change_of(row: Row) -> Change | None:
    """Return the change that a row shows, None for vanilla and for a single seed."""
    d = row.difference
    if row.pair is None or d is None or d.low is None or d.high is None:
        return None
    return Change(row, *row.pair, d.mean, d.low, d.high, (d.high - d.low) / 2)


class Findings:
    """The results of a study's cells in one metric.

    Args:
        metric: one that the evaluation gives.
        level: confidence level of the intervals.
    """

    def __init__(self, study: PairStudy, cells: Sequence[Cell], metric: str, level: float = 0.95):
        check_level(level)
        self.study, self.cells, self.metric, self.level = study, list(cells), metric, level
        self.rising = metric in RISING
        self.states = {cell.name: state(cell) for cell in cells}
        self.metrics = {}  # (point, step): every metric
        for cell in cells:
            for name, metrics in results(cell).items():
                self.metrics[PairPoint.of(cell.settings), int(name.split()[-1])] = metrics
        self.rows = self._rows()

    def _rows(self) -> list[Row]:
        values: dict[tuple, dict[int, float]] = {}
        for (point, step), metrics in self.metrics.items():
            if self.metric in metrics:
                key = point.pair, point.weight, step
                values.setdefault(key, {})[point.seed] = metrics[self.metric]
        rows = []
        for (pair, weight, step), by_seed in values.items():
            baseline = values.get((None, 0.0, step), {})
            difference = pair and paired_difference(by_seed, baseline, self.level)
            rows.append(Row(pair, weight, step, by_seed, difference or None))
        return sorted(rows, key=lambda row: (row.step, row.pair or (0, 0), row.weight))

    @property
    def steps(self) -> list[int]:
        return sorted({row.step for row in self.rows})

    def at_end(self) -> list[Row]:
        """Return the rows of the last step of the runs."""
        return [row for row in self.rows if row.step == self.study.steps[-1]]

    def verdict(self, row: Row) -> str:
        if row.difference is None:
            return "baseline" if row.pair is None else "no vanilla run yet"
        return row.difference.verdict(self.rising)
