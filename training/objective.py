"""What a step minimises: the velocity loss and regularisers, per sample, in one forward pass."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from torch import Tensor, nn

from data.batch import Batch
from transport import Transport


class Regularizer(Protocol):
    names: Sequence[str]
    """of what `losses` logs"""
    head: nn.Module | None = None
    """what it trains besides the network (training/methods/heads.py)"""

    def capture(self) -> AbstractContextManager:
        """Around the network's forward pass."""

    def losses(self, batch: Batch) -> tuple[Tensor | None, list[Tensor]]:
        """After that pass: weighted losses (N,) to add, if any, and scalars to log.

        What is a property of the whole batch is a scalar instead of (N,).
        """

    def finish_step(self, logged: list[Tensor]) -> None:
        """After the optimizer's step, with the means of what `losses` logged in it."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep, on the CPU; {} for most."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take what `state` gave."""

    def announcement(self) -> str:
        """One line for the start of a run."""


class Objective:
    """Called with the network: the mean loss, which is minimised, and what is logged of it."""

    def __init__(self, transport: Transport, regularizers: Sequence[Regularizer]):
        self.transport, self.regularizers = transport, list(regularizers)
        added = [name for regularizer in self.regularizers for name in regularizer.names]
        self.names = ["loss", "velocity_loss", *added]

    def __call__(
        self, model, batch: Batch, autocast: AbstractContextManager
    ) -> tuple[Tensor, list[Tensor]]:
        """(scalar loss, detached values of `names`); the pass runs under `autocast`."""
        with ExitStack() as stack:
            for regularizer in self.regularizers:
                stack.enter_context(regularizer.capture())
            stack.enter_context(autocast)
            velocity_losses = self.transport.training_losses(
                model, batch.x_1, batch.conditions, t=batch.t, x0=batch.x_0
            )["loss"]  # (N,)
        losses, logged = velocity_losses, [velocity_losses.mean()]
        for regularizer in self.regularizers:
            added, values = regularizer.losses(batch)
            losses = losses if added is None else losses + added
            logged += values
        loss = losses.mean()
        return loss, [value.detach() for value in (loss, *logged)]

    def finish_step(self, values: list[Tensor]) -> None:
        """After the optimizer's step, with the means of `names` over its parts."""
        start = 2
        for regularizer in self.regularizers:
            stop = start + len(regularizer.names)
            regularizer.finish_step(values[start:stop])
            start = stop

    def state(self) -> list[dict[str, Tensor]]:
        """Of each regulariser."""
        return [regularizer.state() for regularizer in self.regularizers]

    def load_state(self, states: list[dict[str, Tensor]]) -> None:
        for regularizer, state in zip(self.regularizers, states, strict=True):
            regularizer.load_state(state)
