"""The table of monitors, and those of a run, each at its own interval.

To add one: a file beside this one (training/monitors/monitor.py says what is in it) and a row here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.monitors.block_probes import BlockProbes
from training.monitors.diagnosis import Diagnosis
from training.monitors.fid import FID
from training.monitors.held_out_loss import HeldOutLoss
from training.monitors.monitor import Moment, Monitor, Watched, load_now
from training.monitors.sample_grid import SampleGrid

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.tracking import RunLog

MONITORS: dict[str, type[Monitor]] = {  # in this order they look and log
    "sample_grid": SampleGrid,
    "held_out_loss": HeldOutLoss,
    "fid": FID,
    "block_probes": BlockProbes,
    "diagnosis": Diagnosis,
}


def check_monitors(c: TrainConfig) -> None:
    """Refuse bad flags of any monitor; `ValueError` names the flag."""
    for kind in MONITORS.values():
        kind.check(c)


class Monitors:
    """The monitors that a run's flags ask for, by name; `ValueError` for what cannot be seen."""

    def __init__(self, run: Watched):
        self.config: TrainConfig = run.config
        self.active: dict[str, Monitor] = {
            name: kind(run) for name, kind in MONITORS.items() if kind.interval(run.config)
        }
        load_now("sampling.network")  # with which they evaluate

    def __getitem__(self, name: str) -> Monitor:
        return self.active[name]

    def __call__(self, now: Moment, log: RunLog) -> None:
        """Let those look whose turn it is; a collective."""
        self.look(self.due(now.step), now, log)

    def look(self, names: list[str], now: Moment, log: RunLog) -> None:
        """Let these look; a collective."""
        for name in names:
            self.active[name].look(now, log)

    def due(self, step: int) -> list[str]:
        """Return those whose turn it is after this step."""
        monitors = self.active.items()
        return [name for name, each in monitors if step % each.interval(self.config) == 0]

    def missed(self, step: int, log: RunLog) -> list[str]:
        """Return those that a stop right after this step left no time to look; a collective."""
        from runtime.processes import told_by_first

        due = self.due(step)
        return told_by_first(
            lambda: [name for name in due if not self.active[name].has_looked(step, log)]
        )
