"""The best checkpoint of a run so far, by a number that a monitor logs: --keep-best.

    checkpoints/best.pt -> 0040000.pt

A step with a lower number than every one before it writes its checkpoint, and then the link is
replaced, so that a kill at any moment leaves the link to a whole file, or none. Older checkpoints
are removed after that, never the one it points to. What the number was is read from metrics.jsonl
when a run is resumed: a best step from after the checkpoint that it continues from is forgotten,
as the lines of those steps are, and met again.
"""

import math
import os
from pathlib import Path

from runtime.files import sync_folder, temporary_path
from runtime.processes import told_by_first
from training.checkpoint import BEST, best_file
from training.config import TrainConfig
from training.monitors.fid import FID
from training.monitors.held_out_loss import HeldOutLoss
from training.tracking import RunLog, read_log

INTERVALS = {  # number: how often it is logged
    "eval_fid": FID.interval,
    "eval_pixel_frechet": FID.interval,
    "val_loss": HeldOutLoss.interval,
}


class BestCheckpoint:
    """The lowest value of a run's chosen number, and the link to its checkpoint.

    Args:
        folder: of the run.
        step: steps done when the run starts or goes on; what was logged later is left out.

    Raises `ValueError` when a file has the name of the link.
    """

    def __init__(self, config: TrainConfig, folder: Path, step: int):
        self.metric = config.saving.keep_best
        self.every = INTERVALS[self.metric](config) if self.metric else 0
        self.link_path = folder / "checkpoints" / BEST
        self.value, self.step = math.inf, None
        if self.metric is None:
            return
        if self.link_path.exists() and not self.link_path.is_symlink():
            raise ValueError(
                f"--keep-best {self.metric}: {self.link_path} is a file, and a link of that name "
                f"would replace it; rename it"
            )
        best = best_file(folder / "checkpoints")
        log = folder / "metrics.jsonl"
        if best and log.exists():
            for row in read_log(log):
                if row["step"] == int(best.stem) <= step and self.metric in row:
                    self.value, self.step = row[self.metric], row["step"]

    def improved(self, step: int, log: RunLog) -> bool:
        """Return whether this step is the best so far, on all processes; a collective.

        Args:
            log: with what the monitors just saw; the first process has all of it.
        """
        if not self.every or step % self.every:
            return False
        value = told_by_first(lambda: log.seen.get(str(self.metric), math.nan))
        if not value < self.value:  # nor NaN
            return False
        self.value, self.step = value, step
        return True

    def link(self, path: Path) -> None:
        """Let best.pt be the checkpoint at `path`, which is whole; atomic."""
        temporary = temporary_path(self.link_path)
        os.symlink(path.name, temporary)
        os.replace(temporary, self.link_path)
        sync_folder(path.parent)
