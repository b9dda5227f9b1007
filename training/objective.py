"""Loss of a step: velocity and regularisers, per sample, in one forward pass."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack

from torch import Tensor

from data.batch import Batch
from training.methods.method import Regularizer
from transport import Transport


class Objective:
    """Called with the network: the mean loss, which is minimised, and what is logged of it."""

    def __init__(self, transport: Transport, regularizers: Sequence[Regularizer]):
        self.transport, self.regularizers = transport, list(regularizers)

    def __call__(
        self, model, batch: Batch, autocast: AbstractContextManager
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (scalar loss, detached scalars to log: the loss first, then its terms).

        The network's pass runs under `autocast`.
        """
        with ExitStack() as stack:
            for regularizer in self.regularizers:
                stack.enter_context(regularizer.capture())
            stack.enter_context(autocast)
            velocity_losses = self.transport.training_losses(
                model, batch.x_1, batch.conditions, t=batch.t, x0=batch.x_0
            )["loss"]  # (N,)
        losses, logged = velocity_losses, {"velocity_loss": velocity_losses.mean()}
        for regularizer in self.regularizers:
            added, values = regularizer.losses(batch)
            losses = losses if added is None else losses + added
            logged |= values
        loss = losses.mean()
        return loss, {name: value.detach() for name, value in {"loss": loss, **logged}.items()}

    def finish_step(self, logged: dict[str, Tensor]) -> None:
        """Take the means of what was logged, after the optimizer's step."""
        for regularizer in self.regularizers:
            regularizer.finish_step(logged)

    def state(self) -> list[dict[str, Tensor]]:
        """Return the state of each regulariser, for a checkpoint."""
        return [regularizer.state() for regularizer in self.regularizers]

    def load_state(self, states: list[dict[str, Tensor]] | None) -> None:
        """Take what `state` gave; None, of a checkpoint of the originals, leaves the start.

        `ValueError`, which does not name the file, for another run's.
        """
        if states is None:
            return
        if len(states) != len(self.regularizers):
            raise ValueError(
                f"it has the states of {len(states)} regularisers, this run has "
                f"{len(self.regularizers)}; the file was altered, resume from another one"
            )
        for regularizer, state in zip(self.regularizers, states, strict=True):
            regularizer.load_state(state)
