"""--diagnose-every: what LayerSync does to a step, measured on a pass of its own.

For each pair: the similarity in ten bins of t, the effective rank of both blocks' tokens, and at
the student's output z, through which both terms of the loss reach it and all blocks before it,

    |d L_velocity / d z|,   |d L_sync / d z| (without lambda),   the angle between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from training.methods.layer_sync import layer_sync_settings
from training.monitors.monitor import Moment, Monitor, Watched, load_now

if TYPE_CHECKING:
    from torch import Tensor

    from data.batch import Batch
    from training.config import TrainConfig
    from training.tracking import RunLog


class Diagnosis(Monitor):
    """Diagnosis of the pairs of blocks on the step's images, as many as fit in one pass."""

    logs = "grad_angle_"

    def __init__(self, run: Watched):
        from layersync.capture import BlockRecorder

        load_now("evaluation.blocks.sync_effect")
        self.run, self.network, self.transport = run, run.parallel.network, run.transport
        self.pairs, _ = layer_sync_settings(run.config)
        self.numbers = sorted({number for pair in self.pairs for number in pair})
        blocks: Any = self.network.blocks
        self.recorder = BlockRecorder({n: blocks[n - 1] for n in self.numbers})

    @staticmethod
    def interval(c: TrainConfig) -> int:
        return c.diagnose_every

    @staticmethod
    def check(c: TrainConfig) -> None:
        given = c.encoder_depth or c.gt_encoder_depth
        if c.diagnose_every and "sync" not in c.loss_type and not given:
            raise ValueError(
                f"--diagnose-every {c.diagnose_every} needs a pair to look at: with --loss-type "
                f"{c.loss_type}, give --encoder-depth and --gt-encoder-depth"
            )

    def look(self, now: Moment, log: RunLog) -> None:
        part = slice(len(now.labels) // self.run.config.engine.accumulation_steps)
        batch = self.run.batches.again(
            now.images[part], now.labels[part], now.step, self.run.shard[part]
        )
        log.write_extra(now.step, self.values(batch))

    def add_up(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, a collective."""
        return self.run.accelerator.reduce(tensor, reduction="sum")

    def values(self, batch: Batch) -> dict[str, float]:
        """Compute named numbers of all processes' batches; ranks are of the first process's."""
        import torch

        from evaluation.blocks import sync_effect
        from layersync.alignment import sample_cosine

        autocast = self.run.accelerator.autocast()
        with self.recorder.recording(), autocast:
            losses = self.transport.training_losses(
                self.network, batch.x_1, batch.conditions, t=batch.t, x0=batch.x_0
            )["loss"]
        tokens = {number: calls[0] for number, calls in self.recorder.take().items()}
        students = sorted({student for student, _ in self.pairs})
        count = self.add_up(torch.tensor(float(len(losses)), device=losses.device))
        pulls = torch.autograd.grad(losses.sum() / count, [tokens[number] for number in students])
        velocity = dict(zip(students, pulls, strict=True))
        values = {
            f"rank_{number}": sync_effect.token_rank(tokens[number]) for number in self.numbers
        }
        for student, teacher in self.pairs:
            name, target = f"{student}_{teacher}", tokens[teacher].detach()
            z = tokens[student].detach().float().requires_grad_()
            cosine = sample_cosine(z, target)
            sync = torch.autograd.grad(-cosine.sum() / count, z)[0]
            sums = sync_effect.similarity_by_time(z.detach(), target, batch.t)
            values |= sync_effect.bin_means(self.add_up(sums).cpu(), f"similarity_{name}")
            products = self.add_up(sync_effect.gradient_products(velocity[student], sync))
            norms = sync_effect.norms_and_angle(products.cpu())
            names = "grad_velocity", "grad_sync", "grad_angle"
            values |= {f"{what}_{name}": v for what, v in zip(names, norms, strict=True)}
        return values
