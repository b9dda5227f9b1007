"""Velocity loss of held-out images by time: where along the path a network is good or bad.

Image j gets the same t, noise and mirror each time, so that curves over training are smooth. The
loss is the plain squared error of the EMA network, unweighted, in `BINS` bins of t.
"""

import torch

from runtime.randomness import HELD_OUT, image_streams
from transport import Transport

BINS = 10
BATCH = 32


class Validation:
    """Held-out images shared out over the processes.

    Args:
        source: a data source; its first `samples` images in a fixed random order are used.
    """

    def __init__(self, source, samples: int, seed: int, accelerator):
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
        self.source, self.seed, self.accelerator = source, seed, accelerator
        self.images = order[:samples].tolist()

    @torch.no_grad()
    def losses(self, network, encode, transport: Transport) -> dict[str, float]:
        """{"val_loss": mean, "val_loss_t0.0": mean in [0, 0.1), ...}; a collective.

        Args:
            encode: (images, mirrored, draws) -> x_1, as in the training step.
        """
        sums = torch.zeros(2, BINS, dtype=torch.float64, device=self.accelerator.device)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        # every process makes the same number of passes: a sharded network needs all of them
        for start in range(0, len(self.images), BATCH * world):
            numbers = [start + rank * BATCH + i for i in range(BATCH)]
            self._add(network, encode, transport, numbers, sums)
        totals, counts = self.accelerator.reduce(sums, "sum").cpu()
        bins = {f"val_loss_t{i / BINS:.1f}": (totals[i] / counts[i]).item() for i in range(BINS)}
        return {"val_loss": (totals.sum() / counts.sum()).item()} | bins

    def _add(self, network, encode, transport, numbers, sums) -> None:
        device, count = self.accelerator.device, len(self.images)
        batch = [self.source[self.images[n % count]] for n in numbers]
        images = torch.stack([torch.as_tensor(image) for image, _ in batch]).to(device)
        labels = torch.tensor([int(label) for _, label in batch], device=device)
        draws = image_streams(self.seed, [n % count for n in numbers], device, HELD_OUT)
        mirrored = draws.uniform() < 0.5
        # stratified: image n falls into bin n mod BINS
        bins = torch.tensor([n % BINS for n in numbers], device=device)
        t = transport.training_times((bins + draws.uniform()) / BINS)
        x_1 = encode(images, mirrored, draws)
        x_0 = draws.normal(x_1.shape[1:])
        losses = transport.training_losses(network, x_1, dict(y=labels), t=t, x0=x_0)["loss"]
        inside = torch.tensor([n < count for n in numbers], device=device).double()
        sums[0].index_add_(0, bins, losses.double() * inside)
        sums[1].index_add_(0, bins, inside)
