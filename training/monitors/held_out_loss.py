"""Velocity loss of held-out images by time: where along the path a network is good or bad.

Image j gets the same t, noise and mirror each time, so that curves over training are smooth. The
loss is the plain squared error of the EMA network, unweighted, in `BINS` bins of t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.monitors.monitor import Moment, Monitor, Watched

if TYPE_CHECKING:
    from torch import Tensor

    from training.config import TrainConfig
    from training.tracking import RunLog

BINS = 10
BATCH = 32


def bin_of(n: int, count: int) -> int:
    """Return the bin of t of held-out image n: each bin has as many, or few images are spread."""
    return n % BINS if count >= BINS else (2 * n + 1) * BINS // (2 * count)


class HeldOutLoss(Monitor):
    """Held-out images, the first `val_samples` in a fixed random order, shared by the processes."""

    logs = "val_loss"

    def __init__(self, run: Watched):
        import torch

        assert run.held_out is not None  # without it, this monitor is not made
        self.run, self.source, self.seed = run, run.held_out, run.config.global_seed
        order = torch.randperm(len(self.source), generator=torch.Generator().manual_seed(0))
        self.images = order[: run.config.val_samples].tolist()

    @staticmethod
    def interval(c: TrainConfig) -> int:
        return c.val_every if c.val_data_path else 0

    def look(self, now: Moment, log: RunLog) -> None:
        log.write_extra(now.step, self.losses())

    def losses(self) -> dict[str, float]:
        """Compute {"val_loss": mean, "val_loss_t0.0": mean in [0, 0.1), ...}; a collective."""
        import torch

        accelerator = self.run.accelerator
        sums = torch.zeros(2, BINS, dtype=torch.float64, device=accelerator.device)
        rank, world = accelerator.process_index, accelerator.num_processes
        # every process makes the same number of passes: a sharded network needs all of them
        for start in range(0, len(self.images), BATCH * world):
            with torch.no_grad():
                self.add([start + rank * BATCH + i for i in range(BATCH)], sums)
        totals, counts = accelerator.reduce(sums, "sum").cpu()
        bins = {
            f"val_loss_t{i / BINS:.1f}": (totals[i] / counts[i]).item()
            for i in range(BINS)
            if counts[i]
        }
        return {"val_loss": (totals.sum() / counts.sum()).item()} | bins

    def add(self, numbers: list[int], sums: Tensor) -> None:
        """Add losses and counts of these held-out images to `sums` (2, BINS)."""
        import torch

        from data.encoding import encode_drawing
        from runtime.randomness import HELD_OUT, image_streams

        run, transport, count = self.run, self.run.transport, len(self.images)
        device = run.accelerator.device
        batch = [self.source[self.images[n % count]] for n in numbers]
        images = torch.stack([torch.as_tensor(image) for image, _ in batch]).to(device)
        labels = torch.tensor([int(label) for _, label in batch], device=device)
        draws = image_streams(self.seed, [n % count for n in numbers], device, HELD_OUT)
        mirrored = draws.uniform() < 0.5
        bins = torch.tensor([bin_of(n % count, count) for n in numbers], device=device)
        t = transport.training_times((bins + draws.uniform()) / BINS)
        x_1 = encode_drawing(self.source, run.encoding.codec, images, mirrored, draws)
        x_0 = draws.normal(x_1.shape[1:])
        losses = transport.training_losses(run.evaluated, x_1, dict(y=labels), t=t, x0=x_0)["loss"]
        inside = torch.tensor([n < count for n in numbers], device=device).double()
        sums[0].index_add_(0, bins, losses.double() * inside)
        sums[1].index_add_(0, bins, inside)
