"""Checkpoints of a run: written beside the training, the best one linked, older ones removed."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from runtime.progress import duration
from training.best_checkpoint import BestCheckpoint
from training.checkpoint import prune_checkpoints, save_checkpoint
from training.checkpoint_writer import CheckpointWriter
from training.config import TrainConfig
from training.originals import original_args


class RunCheckpoints:
    """The folder of a run's checkpoints, which the first process writes.

    Args:
        folder: of the run.
        step: steps done when the run starts or goes on.
        start: the checkpoint that it goes on from, if there is one.
        took: called with the seconds that a write took.
        say: shows a line to the run's reader.

    Raises `ValueError` as `BestCheckpoint` does.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        step: int,
        *,
        start: Path | None,
        took: Callable[[float], None],
        say: Callable[[str], None],
    ):
        self.config, self.folder = config, folder / "checkpoints"
        self.took, self.say = took, say
        self.best = BestCheckpoint(config, folder, step)
        self.writer = CheckpointWriter(self.write)
        # names of checkpoints that are known to be readable: the one just read, then those written
        self.whole = {start.name} if start else set()

    def path(self, step: int) -> Path:
        return self.folder / f"{step:07d}.pt"

    def submit(self, state: dict, hurry: bool = False) -> None:
        """Copy the state of a step and begin to write it, see `CheckpointWriter.submit`."""
        self.writer.submit(self.path(state["step"]), state, hurry)

    def write(self, path: Path, state: dict, cancelled: Event) -> None:
        """Write a checkpoint and then remove older ones, on the writer's thread."""
        start = time.monotonic()
        state["args"] = original_args(self.config)
        save_checkpoint(path, state, self.config.saving.min_free_disk, cancelled)
        seconds = time.monotonic() - start
        self.took(seconds)
        self.say(f"checkpoint {path} written in {duration(seconds)}")
        self.whole.add(path.name)
        if state["step"] == self.best.step:
            self.best.link(path)
        self.prune(state["step"])

    def link_best(self, step: int) -> None:
        """Link the checkpoint of a step, which is written, as the best so far."""
        self.best.link(self.path(step))
        self.prune(step)

    def prune(self, step: int) -> None:
        """Remove the checkpoints that the settings do not keep, now that `step` has its own."""
        saving = self.config.saving
        prune_checkpoints(self.folder, step, self.whole, saving.keep_last, saving.keep_every)
