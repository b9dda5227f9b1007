"""The order in which training sees the data, and which part of it a process sees."""

from collections.abc import Iterator

import numpy as np

from runtime.randomness import epoch_order


class StepBatches:
    """Data set indices of one process's share of the batch, for each step from `first_step`.

    An epoch visits the data in an order drawn from (seed, epoch) and drops the rest that does not
    fill a batch. Process r of W takes positions r B/W ... (r+1) B/W - 1 of the global batch B.
    """

    def __init__(
        self, length: int, batch: int, seed: int, first_step: int, last_step: int, shard: range
    ):
        self.length, self.batch, self.seed = length, batch, seed
        self.steps, self.shard = range(first_step, last_step), shard
        self.epoch, self.order = -1, np.empty(0, np.int64)  # none yet

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            yield self.indices(step, self.shard)

    def indices(self, step: int, positions: range) -> list[int]:
        """Return the data set indices at these positions of a step's global batch."""
        epoch, k = divmod(step, self.length // self.batch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, epoch_order(self.seed, epoch, self.length)
        start = k * self.batch
        return self.order[start + positions.start : start + positions.stop].tolist()


def batch_shard(global_batch_size: int, rank: int, world_size: int, parts: int = 1) -> range:
    """Return a process's positions in the global batch, which it sees in `parts` equal parts.

    Raises `ValueError` when the batch cannot be shared evenly.
    """
    local, rest = divmod(global_batch_size, world_size)
    if rest or local % parts:
        shares = f"{world_size} processes" + (f" x {parts} accumulation steps" * (parts > 1))
        raise ValueError(
            f"--global-batch-size {global_batch_size} is not divisible by the {shares}; "
            f"choose a multiple of {world_size * parts}"
        )
    return range(rank * local, (rank + 1) * local)
