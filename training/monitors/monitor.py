"""The type of a monitor, which looks at a run every so many steps and changes nothing.

A monitor is a file in this folder with a class that has a row in training/monitors/monitors.py.

Nothing here or in a monitor's file imports torch at the top: checks of flags take no time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from data.encoding import Encoding
    from data.source_protocol import IndexedSource, Source
    from sampling.network import Network
    from training.config import TrainConfig
    from training.parallel import Parallel
    from training.step_draws import BatchMaker
    from training.tracking import RunLog
    from transport import Transport


@dataclass(frozen=True)
class Watched:
    """Everything of a run that a monitor may look at."""

    config: TrainConfig
    parallel: Parallel
    transport: Transport
    encoding: Encoding
    batches: BatchMaker
    """makes a batch as the training step does"""
    shard: range
    """positions of this process in the global batch"""

    @property
    def ema(self):
        """The moving average of the network, which samples are made with."""
        return self.parallel.ema

    @cached_property
    def evaluated(self) -> Network:
        """The moving average as samplers and losses call it: in the precision of the steps."""
        from sampling.network import Network

        return Network(self.ema, self.config.engine.precision == "bf16")

    @property
    def accelerator(self):
        return self.parallel.accelerator

    @property
    def source(self) -> Source:
        """The data that is trained on."""
        return self.encoding.source

    @cached_property
    def held_out(self) -> IndexedSource | None:
        """The data of --val-data-path, if there is any; `ValueError` when it cannot be used."""
        from data.class_names import number_alike
        from data.sources import load_indexed

        c = self.config
        if not c.val_data_path:
            return None
        named = replace(c, data_path=c.val_data_path, dataset_name=None, split=c.val_split)
        source = load_indexed(named, batch=1, given="--val-data-path")
        source.check_codec(self.encoding.codec, c.known_size)
        return number_alike(source, self.source, f"--val-data-path {c.val_data_path}")


@dataclass(frozen=True)
class Moment:
    """A run just after a step, before the next one."""

    step: int
    """steps done"""
    images: Tensor
    """this process's share of the last step's batch, on the device, as the source gives it:
    (N, *source.shape)"""
    labels: Tensor
    """(N,)"""


def load_now(*modules: str) -> None:
    """Load modules at the start of a run that are used hours later.

    By then their files may be another version's, or gone.
    """
    for name in modules:
        import_module(name)


class Monitor(Protocol):
    """A look at a run, made at its start; raises `ValueError` there for what it cannot look at."""

    logs: str = ""
    """how a name begins that only its own lines of metrics.jsonl have"""

    def __init__(self, run: Watched): ...

    @staticmethod
    def interval(c: TrainConfig) -> int:
        """Return the number of steps between two looks, 0 for never."""

    @staticmethod
    def check(c: TrainConfig) -> None:
        """Refuse bad flags of its own, before anything is loaded; `ValueError` names the flag."""
        return

    def look(self, now: Moment, log: RunLog) -> None:
        """Look at the run and log what is seen; called on every process."""

    def has_looked(self, step: int, log: RunLog) -> bool:
        """Return whether what it saw after this step is in the run's files; on one process."""
        return any(name.startswith(self.logs) for row in log.rows(step) for name in row)
