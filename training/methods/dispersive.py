"""Dispersive loss (Wang and He, arXiv 2506.09027): representations of a batch are pushed apart.

    L = log mean over i, j of exp(-|z_i - z_j|^2 / (D tau)),    weight * L is added

z_i is the output of a block for sample i, its tokens flattened to one vector of D = tokens x width
numbers, and the mean includes i = j. It is the InfoNCE variant with L2 distances, without positive
pairs and without a head.

The batch is that of one pass: one process, one accumulation part. So this loss, and this one alone,
depends on the number of processes and parts.
"""

import math
from contextlib import AbstractContextManager

from torch import Tensor, nn

from data.batch import Batch
from layersync.capture import BlockRecorder
from training.config import DispersiveConfig
from training.objective import Regularizer


class DispersiveRegularizer(Regularizer):
    """Adds one number to the loss of each sample: it is a property of the batch."""

    names = ("dispersive_loss",)

    def __init__(self, network: nn.Module, config: DispersiveConfig):
        self.config, self.depth = config, config.dispersive_depth
        self.recorder = BlockRecorder({self.depth: network.blocks[self.depth - 1]})

    def capture(self) -> AbstractContextManager:
        return self.recorder.recording()

    def losses(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        (tokens,) = self.recorder.take()[self.depth]
        loss = dispersive_loss(tokens, self.config.dispersive_tau)
        return self.config.dispersive_weight * loss, [loss]

    def announcement(self) -> str:
        c = self.config
        return (
            f"Dispersive loss: blocks[{self.depth - 1}] (output), tau {c.dispersive_tau:g}, "
            f"lambda {c.dispersive_weight:g}, within the batch of each process and pass"
        )


def dispersive_loss(tokens: Tensor, tau: float) -> Tensor:
    """The scalar L of tokens (N, T, D), in float32."""
    z = tokens.float().flatten(1)  # (N, T * D)
    z = (z - z.mean(0)) / math.sqrt(z.shape[1])  # no distance changes; the products below get small
    squares = z.square().sum(1)
    distances = squares[:, None] + squares - 2 * z @ z.T  # (N, N), squared
    return (-distances.clamp(min=0) / tau).flatten().logsumexp(0) - 2 * math.log(len(z))
