"""A training step: batches on the device -> losses -> backward, part by part -> update."""

from collections.abc import Mapping

from torch import Tensor

from data.batch import Batch
from training.objective import Objective
from training.parallel import Parallel
from training.step_draws import BatchMaker
from training.update import Update


class TrainStep:
    """An optimizer step: called with what the loader gave, on the device, makes one.

    Args:
        parts: forward and backward passes, each on as many of the samples.
    """

    def __init__(
        self,
        *,
        parallel: Parallel,
        objective: Objective,
        update: Update,
        batches: BatchMaker,
        parts: int,
    ):
        self.parallel, self.objective, self.update = parallel, objective, update
        self.batches, self.parts = batches, parts

    def __call__(self, placed: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Make the step that follows `step` steps.

        Returns what is logged, means over this process's share, without waiting for the device.
        """
        parts = self.parts
        size = len(placed["labels"]) // parts
        sums: dict[str, Tensor] = {}
        for i in range(parts):
            batch = self.batches.batch(step, placed, slice(i * size, (i + 1) * size))
            with self.update.accumulating(last=i == parts - 1):
                values = self.forward_backward(batch)
            sums = {name: sums[name] + value if sums else value for name, value in values.items()}
        values = {name: value / parts for name, value in sums.items()} if parts > 1 else sums
        grad_norm = self.update(step)
        self.objective.finish_step(values)
        return {**values, "grad_norm": grad_norm}

    def forward_backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the gradients of a batch; returns what is logged of it."""
        loss, values = self.objective(self.parallel.model, batch, self.parallel.autocast())
        self.parallel.accelerator.backward(loss / self.parts if self.parts > 1 else loss)
        return values
