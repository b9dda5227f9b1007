"""Loss of a step: velocity and regularisers, per sample, in one forward pass."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

from torch import Tensor

from data.batch import Batch
from training.methods.method import Regularizer, as_given
from transport import Transport


class Objective:
    """The loss of a step: called with the network, it gives the mean loss and what is logged.

    Args:
        compiled: compiles a function, or leaves it as it is.
    """

    def __init__(
        self,
        transport: Transport,
        regularizers: Sequence[Regularizer],
        compiled: Callable = as_given,
    ):
        self.regularizers = list(regularizers)
        self.x_t = compiled(transport.path.x_t)
        self.velocity_losses = compiled(transport.sample_losses)

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
            path = batch.t, batch.x_0, batch.x_1
            prediction = model(self.x_t(*path), batch.t, **batch.conditions)
            velocity_losses = self.velocity_losses(prediction, *path)  # (N,)
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
