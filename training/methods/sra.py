"""SRA (Jiang et al., arXiv 2505.02831): a shallow block predicts what the EMA sees with less noise.

    L = mean of smooth_l1(MLP(z_k(x_t, t)), z'_k'(x_t', t')),    t' = min(t + U(0, shift), 1)

z' are the outputs of a deeper block of the EMA model, without gradient, for the same image, noise
and label at a time t' nearer to the data; k < k'. The MLP has one hidden layer of twice the width;
it is trained, and not part of the network.

The teacher makes a whole forward pass, as in the authors' code.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import Batch
from layersync.capture import BlockRecorder
from training.config import SRAConfig
from training.methods.heads import make_head
from training.objective import Regularizer
from transport import Transport


class SRARegularizer(Regularizer):
    """Args:
    network, ema: the trained network and its moving average.
    seed: of the head's weights.
    autocast: a context manager for the teacher's pass.
    """

    names = ("sra_loss",)

    def __init__(
        self,
        network: nn.Module,
        ema: nn.Module,
        transport: Transport,
        config: SRAConfig,
        seed: int,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.ema, self.transport, self.config, self.autocast = ema, transport, config, autocast
        student, teacher = config.sra_student_depth, config.sra_teacher_depth
        self.student = BlockRecorder({"student": network.blocks[student - 1]})
        self.teacher = BlockRecorder({"teacher": ema.blocks[teacher - 1]})
        width = network.pos_embed.shape[-1]
        self.head = make_head([width, 2 * width, width], seed)

    def capture(self) -> AbstractContextManager:
        return self.student.recording()

    def losses(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        (tokens,) = self.student.take()["student"]
        predicted, target = self.head(tokens).float(), self.targets(batch).float()  # (N, T, D)
        losses = F.smooth_l1_loss(predicted, target, reduction="none", beta=self.config.sra_beta)
        losses = losses.flatten(1).mean(1)  # (N,)
        return self.config.sra_weight * losses, [losses.mean()]

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """The teacher's tokens (N, T, D)."""
        t = (batch.t + self.config.sra_shift * batch.draws.uniform()).clamp(max=1)
        x_t = self.transport.path.x_t(t, batch.x_0, batch.x_1)
        with self.autocast(), self.teacher.recording():
            self.ema(x_t, t, **batch.conditions)
        (tokens,) = self.teacher.take()["teacher"]
        return tokens

    def announcement(self) -> str:
        c, count = self.config, sum(p.numel() for p in self.head.parameters())
        return (
            f"SRA: blocks[{c.sra_student_depth - 1}] -> blocks[{c.sra_teacher_depth - 1}] of the "
            f"EMA at t + U(0, {c.sra_shift:g}), lambda {c.sra_weight:g}, "
            f"a head of {count / 1e6:.2f}M parameters"
        )
