"""The table of monitors, and those of a run, each at its own interval.

To add one: a file beside this one (training/monitors/monitor.py says what is in it) and a row here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.monitors.block_probes import BlockProbes
from training.monitors.diagnosis import Diagnosis
from training.monitors.fid import FID
from training.monitors.held_out_loss import HeldOutLoss
from training.monitors.monitor import Moment, Monitor, Watched
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

    def __getitem__(self, name: str) -> Monitor:
        return self.active[name]

    def __call__(self, now: Moment, log: RunLog) -> None:
        """Let those look whose turn it is; a collective."""
        for monitor in self.active.values():
            if now.step % monitor.interval(self.config) == 0:
                monitor.look(now, log)
