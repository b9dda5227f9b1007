"""--diagnose-every: what LayerSync does to a step, measured on a pass of its own.

For each pair: the similarity in ten bins of t, the effective rank of both blocks' tokens, and at
the student's output z, through which both terms of the loss reach it and all blocks before it,

    |d L_velocity / d z|,   |d L_sync / d z| (without lambda),   the angle between them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from data.batch import Batch
from evaluation.blocks.sync_effect import (
    bin_means,
    gradient_products,
    norms_and_angle,
    similarity_by_time,
    token_rank,
)
from layersync.alignment import sample_cosine
from layersync.capture import BlockRecorder
from transport import Transport


class Diagnosis:
    """Looks at pairs of the network in training; changes nothing.

    Args:
        network: with `blocks` that return tokens (N, T, D).
        pairs: (student, teacher), counted from 1.
        add_up: the sum of a tensor over all processes, a collective.
    """

    def __init__(
        self,
        network: nn.Module,
        transport: Transport,
        pairs: list[tuple[int, int]],
        add_up: Callable[[Tensor], Tensor],
    ):
        self.network, self.transport, self.add_up = network, transport, add_up
        self.pairs = pairs
        self.numbers = sorted({number for pair in pairs for number in pair})
        self.recorder = BlockRecorder({n: network.blocks[n - 1] for n in self.numbers})

    def values(self, batch: Batch, autocast) -> dict[str, float]:
        """Named numbers of this process's `batch`, joined over all; ranks are of the first's."""
        with self.recorder.recording(), autocast:
            losses = self.transport.training_losses(
                self.network, batch.x_1, batch.conditions, t=batch.t, x0=batch.x_0
            )["loss"]
        tokens = {number: calls[0] for number, calls in self.recorder.take().items()}
        students = sorted({student for student, _ in self.pairs})
        count = self.add_up(torch.tensor(float(len(losses)), device=losses.device))
        pulls = torch.autograd.grad(losses.sum() / count, [tokens[number] for number in students])
        velocity = dict(zip(students, pulls, strict=True))
        found = {f"rank_{number}": token_rank(tokens[number]) for number in self.numbers}
        for student, teacher in self.pairs:
            name, z = f"{student}_{teacher}", tokens[student].detach().float().requires_grad_()
            cosine = sample_cosine(z, tokens[teacher].detach())
            sync = torch.autograd.grad(-cosine.sum() / count, z)[0]
            sums = similarity_by_time(z.detach(), tokens[teacher].detach(), batch.t)
            found |= bin_means(self.add_up(sums).cpu(), f"similarity_{name}")
            products = self.add_up(gradient_products(velocity[student], sync))
            norms = norms_and_angle(products.cpu())
            names = "grad_velocity", "grad_sync", "grad_angle"
            found |= {f"{what}_{name}": v for what, v in zip(names, norms, strict=True)}
        return found
