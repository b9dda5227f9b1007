"""Everything random about a training step: mirrors, dropped labels, times, noise."""

import torch
from torch import Tensor

from data.batch import Batch
from data.encoding import Encoding
from runtime.randomness import step_streams
from transport import Transport


class StepDraws:
    """Makes batches of what the source gives; a function of (seed, step, position) alone.

    Args:
        dropout: the probability that the network does not see a label.
        device: where batches go.
    """

    def __init__(
        self,
        *,
        seed: int,
        encoding: Encoding,
        transport: Transport,
        dropout: float,
        device: torch.device,
    ):
        self.seed, self.encoding, self.transport = seed, encoding, transport
        self.dropout, self.device = dropout, device

    def __call__(self, images: Tensor, labels: Tensor, step: int, positions: range) -> Batch:
        """Draw for the samples at `positions` of a global batch. The order is part of a run.

        Args:
            images: items of the source, (N, *source.shape).
            labels: (N,).
            step: steps done before this one.
        """
        device = self.device
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        draws = step_streams(self.seed, step, positions, device)
        mirrored = draws.uniform() < 0.5
        dropped = draws.uniform() < self.dropout
        t = self.transport.training_times(draws.uniform())  # (N,)
        x_1 = self.encoding(images, mirrored, draws)  # (N, C, H, W)
        x_0 = draws.normal(x_1.shape[1:])
        return Batch(
            step=step,
            positions=positions,
            images=images,
            mirrored=mirrored,
            labels=labels,
            dropped=dropped,
            t=t,
            x_1=x_1,
            x_0=x_0,
            draws=draws,
        )
