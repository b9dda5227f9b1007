"""The type of a method, a regulariser of the velocity loss that --loss-type can name.

A method is a file in this folder with two classes: its settings, a frozen dataclass and a `Method`,
and its loss, a `Regularizer`. It has a row in training/methods/methods.py, a field in TrainConfig
and a test of its loss against a closed form.

Nothing here or in a method's file imports torch at the top, so that --help answers at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from models.sizes import dimensions
from runtime.flags import flag

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from accelerate import Accelerator
    from torch import Tensor, nn

    from data.batch import Batch
    from data.draws import Draw
    from data.source_protocol import Source
    from models import SiT
    from training.config import TrainConfig
    from training.step_draws import Read
    from transport import Transport


class Regularizer(Protocol):
    """Addition of a method to the loss of a step."""

    name: str
    """of its loss: the first value that it logs, and the entry of its head in a checkpoint"""
    head: nn.Module | None = None
    """what it trains besides the network (training/methods/heads.py)"""
    draws: Sequence[Draw] = ()
    """what it draws for each sample, after all that a step draws; `Batch.extra` has it by name"""
    reads: Mapping[str, Read] = {}
    """what the loader's workers read for it from disk, by its name in `Batch.extra`"""

    def capture(self) -> AbstractContextManager:
        """Make the context of the network's forward pass, in which it sees the blocks."""

    def losses(self, batch: Batch) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return weighted losses (N,) to add, if any, and named scalars to log; after that pass.

        A loss that is a property of the whole batch is a scalar instead of (N,).
        """

    def finish_step(self, logged: dict[str, Tensor]) -> None:
        """Take the means of all that was logged in a step, after the optimizer made it."""
        return

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must keep, on the CPU; {} for most."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take what `state` gave."""
        return

    def announcement(self) -> str:
        """Return one line for the start of a run."""


def as_given(work):
    """Return a function or a module itself, where nothing is compiled (models/compiling.py)."""
    return work


@dataclass(frozen=True)
class Materials:
    """Everything of a run that a method may make its regulariser of."""

    config: TrainConfig
    last_step: int
    network: SiT
    ema: SiT
    transport: Transport
    source: Source
    accelerator: Accelerator
    load_encoder: Callable | None = None
    """makes REPA's encoder of its settings; timm's pretrained one unless given"""

    compiled: Callable[[Any], Any] = as_given
    """compiles a function, or a module in place, where the run is compiled"""

    @property
    def head_seed(self) -> int:
        """Seed of the weights of heads."""
        import numpy as np

        from runtime.randomness import HEADS

        key = HEADS, self.config.global_seed
        return int(np.random.SeedSequence(key).generate_state(1)[0])


Setting = bool | int | float | str
"""A value as trackers and tables of runs show it."""


class Method(Protocol):
    """A method's settings: a frozen dataclass whose defaults are the published values.

    Every error is a `ValueError` that names the flag, its value and the remedy.
    """

    trains_head: bool = False
    """whether its regulariser has a `head`"""

    @property
    def watched(self) -> bool:
        """True if flags ask to log it in a run whose loss does not name it."""
        return False

    def check(self, c: TrainConfig) -> None:
        """Refuse values that are wrong whatever the model, the data and the device."""
        return

    def check_unused(self, c: TrainConfig, named: list[str]) -> None:
        """Refuse flags of this method where --loss-type names only the methods in `named`."""
        for name in changed(self):
            raise ValueError(f"{flag(name)} {getattr(self, name)}: {no_effect(c)}")

    def check_pass(self, c: TrainConfig, samples: int) -> None:
        """Refuse a forward pass of as few as `samples` samples on a process."""
        return

    def folder_parts(self, model: str) -> list[str]:
        """Return what a run's name says of the method: blocks and weight.

        `ValueError` for blocks that the model does not have.
        """

    def resolved(self, model: str) -> dict[str, Setting]:
        """Return the settings that may be left to the model, as they are in force, by field name.

        `ValueError` for blocks that the model does not have.
        """
        return {}

    def make(self, given: Materials) -> Regularizer:
        """Make the regulariser of a run; `ValueError` for what network or data cannot give."""


def changed(settings) -> list[str]:
    """Return the fields whose values are not the defaults."""
    fields = dataclasses.fields(settings)
    return [field.name for field in fields if getattr(settings, field.name) != field.default]


def no_effect(c: TrainConfig) -> str:
    return f"it has no effect with --loss-type {c.loss_type}"


def depth_of(model: str) -> int:
    """Return how many blocks a model has; `ValueError` for an unknown one."""
    return dimensions(model)["depth"]


def block_number(name: str, given: int | None, published: int, model: str) -> int:
    """Return the block that the field `name` gives, else the published one; counted from 1.

    `ValueError` for one that the model does not have.
    """
    number, depth = published if given is None else given, depth_of(model)
    if not 1 <= number <= depth:
        raise ValueError(f"{flag(name)} {number}: {model} has blocks 1 to {depth}")
    return number
