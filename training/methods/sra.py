"""SRA (Jiang et al., arXiv 2505.02831): a shallow block predicts what the EMA sees with less noise.

    L = mean of smooth_l1(MLP(z_k(x_t, t)), z'_k'(x_t', t')),    t' = min(t + U(0, shift), 1)

z' are the outputs of a deeper block of the EMA model, without gradient, for the same image, noise
and label at a time t' nearer to the data; k < k'. The MLP has one hidden layer of twice the width;
it is trained, and not part of the network.

The teacher makes a whole forward pass, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.draws import Draw
from models.sizes import family
from runtime.flags import require
from training.methods.method import (
    Materials,
    Method,
    Regularizer,
    Setting,
    as_given,
    block_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from data.batch import Batch
    from models import SiT
    from training.config import TrainConfig
    from transport import Transport

# Published for XL and B. L's blocks are at the same fractions of the depth as XL's; S has B's depth
# and takes B's. No paper has Ti.
SRA_DEPTHS = {"XL": (8, 20), "L": (7, 17), "B": (3, 8), "S": (3, 8), "Ti": (2, 5)}
SHIFT = Draw("sra_shift")  # of the time, in units of --sra-shift


@dataclass(frozen=True)
class SRAConfig(Method):
    """--loss-type sra: self-representation alignment."""

    sra_weight: float = 0.2
    """weight of SRA"""
    sra_beta: float = 0.05
    """distance from which its smooth L1 is linear"""
    sra_shift: float = 0.2
    """the teacher sees a time later (nearer to data) by a draw from U(0, this)"""
    sra_student_depth: int | None = None
    """student block, counted from 1; the paper's for the model unless given"""
    sra_teacher_depth: int | None = None
    """teacher block, of the EMA model; the paper's for the model unless given"""

    trains_head = True

    def check(self, c: TrainConfig) -> None:
        require(self, "sra_weight", self.sra_weight > 0, "positive")
        for name in ("sra_beta", "sra_shift"):
            require(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")

    def depths(self, model: str) -> tuple[int, int]:
        """Return student and teacher, flags first and then the published ones."""
        student, teacher = SRA_DEPTHS[family(model)]
        student = block_number("sra_student_depth", self.sra_student_depth, student, model)
        teacher = block_number("sra_teacher_depth", self.sra_teacher_depth, teacher, model)
        if student > teacher:
            raise ValueError(
                f"--sra-student-depth {student} lies behind --sra-teacher-depth {teacher}: the "
                f"student is the earlier block"
            )
        return student, teacher

    def folder_parts(self, model: str) -> list[str]:
        student, teacher = self.depths(model)
        return [f"{student}-{teacher}", f"lambda{self.sra_weight:g}"]

    def resolved(self, model: str) -> dict[str, Setting]:
        student, teacher = self.depths(model)
        return {"sra_student_depth": student, "sra_teacher_depth": teacher}

    def make(self, given: Materials) -> Regularizer:
        return SRARegularizer(
            network=given.network,
            ema=given.ema,
            transport=given.transport,
            depths=self.depths(given.config.model),
            config=self,
            seed=given.head_seed,
            autocast=given.accelerator.autocast,
            compiled=given.compiled,
        )


class SRARegularizer(Regularizer):
    """Adds the student's distance to the teacher.

    Args:
        network, ema: the trained network and its moving average.
        depths: (student, teacher), counted from 1.
        seed: of the head's weights.
        autocast: a context manager for the teacher's pass.
        compiled: compiles a function or a module, or leaves it as it is.
    """

    name = "sra_loss"
    head: nn.Module
    draws = (SHIFT,)

    def __init__(
        self,
        *,
        network: SiT,
        ema: SiT,
        transport: Transport,
        depths: tuple[int, int],
        config: SRAConfig,
        seed: int,
        autocast: Callable[[], AbstractContextManager],
        compiled: Callable = as_given,
    ):
        from layersync.capture import BlockRecorder
        from training.methods.heads import make_head

        self.ema, self.transport, self.config, self.autocast = ema, transport, config, autocast
        self.depths = student, teacher = depths
        self.student = BlockRecorder({"student": network.blocks[student - 1]})
        self.teacher = BlockRecorder({"teacher": ema.blocks[teacher - 1]})
        width = network.pos_embed.shape[-1]
        self.head = compiled(make_head([width, 2 * width, width], seed))
        self.distances = compiled(token_distances)

    def capture(self) -> AbstractContextManager:
        return self.student.recording()

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (tokens,) = self.student.take()["student"]
        predicted, target = self.head(tokens), self.targets(batch)  # (N, T, D)
        losses = self.distances(predicted, target, self.config.sra_beta)  # (N,)
        return self.config.sra_weight * losses, {self.name: losses.mean()}

    def targets(self, batch: Batch) -> Tensor:
        """Compute the teacher's tokens (N, T, D), without gradient."""
        import torch

        with torch.no_grad():
            t = (batch.t + self.config.sra_shift * batch.extra[SHIFT.name]).clamp(max=1)
            x_t = self.transport.path.x_t(t, batch.x_0, batch.x_1)
            with self.autocast(), self.teacher.recording():
                self.ema(x_t, t, **batch.conditions)
            (tokens,) = self.teacher.take()["teacher"]
            return tokens

    def announcement(self) -> str:
        c, count = self.config, sum(p.numel() for p in self.head.parameters())
        student, teacher = self.depths
        return (
            f"SRA: blocks[{student - 1}] -> blocks[{teacher - 1}] of the "
            f"EMA at t + U(0, {c.sra_shift:g}), lambda {c.sra_weight:g}, "
            f"a head of {count / 1e6:.2f}M parameters"
        )


def token_distances(predicted: Tensor, target: Tensor, beta: float) -> Tensor:
    """Compute the smooth L1 distance of tokens (N, T, D), its mean (N,), in float32."""
    from torch.nn.functional import smooth_l1_loss

    distances = smooth_l1_loss(predicted.float(), target.float(), reduction="none", beta=beta)
    return distances.flatten(1).mean(1)
