"""Dispersive loss (Wang and He, arXiv 2506.09027): representations of a batch are pushed apart.

    L = log mean over i, j of exp(-|z_i - z_j|^2 / (D tau)),    weight * L is added

z_i is the output of a block for sample i, its tokens flattened to one vector of D = tokens x width
numbers, and the mean includes i = j. It is the InfoNCE variant with L2 distances, without positive
pairs and without a head.

The batch is that of one pass: one process, one accumulation part. So this loss, and this one alone,
depends on the number of processes and parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.flags import require
from training.methods.method import (
    Materials,
    Method,
    Regularizer,
    Setting,
    as_given,
    block_number,
    depth_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor

    from data.batch import Batch
    from models import SiT
    from training.config import TrainConfig


@dataclass(frozen=True)
class DispersiveConfig(Method):
    """--loss-type dispersive, within a pass of a process; the defaults are its PyTorch code's."""

    dispersive_weight: float = 0.25
    """weight of the dispersive loss"""
    dispersive_tau: float = 1.0
    """its temperature"""
    dispersive_depth: int | None = None
    """block whose output is dispersed, counted from 1; the last one unless given"""

    def check(self, c: TrainConfig) -> None:
        for name in ("dispersive_weight", "dispersive_tau"):
            require(self, name, getattr(self, name) > 0, "positive")

    def check_pass(self, c: TrainConfig, samples: int) -> None:
        if samples < 2:
            raise ValueError(
                f"--global-batch-size {c.global_batch_size}: the dispersive loss compares the "
                f"samples that one process sees in one pass, which are {samples} here; give a "
                f"larger batch, fewer processes or fewer --accumulation-steps"
            )

    def depth(self, model: str) -> int:
        return block_number("dispersive_depth", self.dispersive_depth, depth_of(model), model)

    def folder_parts(self, model: str) -> list[str]:
        return [f"{self.depth(model)}", f"lambda{self.dispersive_weight:g}"]

    def resolved(self, model: str) -> dict[str, Setting]:
        return {"dispersive_depth": self.depth(model)}

    def make(self, given: Materials) -> Regularizer:
        depth = self.depth(given.config.model)
        return DispersiveRegularizer(given.network, depth, self, given.compiled)


class DispersiveRegularizer(Regularizer):
    """Adds one number to the loss of each sample: it is a property of the batch."""

    name = "dispersive_loss"

    def __init__(
        self, network: SiT, depth: int, config: DispersiveConfig, compiled: Callable = as_given
    ):
        from layersync.capture import BlockRecorder

        self.config, self.depth = config, depth
        self.loss = compiled(dispersive_loss)
        self.recorder = BlockRecorder({depth: network.blocks[depth - 1]})

    def capture(self) -> AbstractContextManager:
        return self.recorder.recording()

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (tokens,) = self.recorder.take()[self.depth]
        loss = self.loss(tokens, self.config.dispersive_tau)
        return self.config.dispersive_weight * loss, {self.name: loss}

    def announcement(self) -> str:
        c = self.config
        return (
            f"Dispersive loss: blocks[{self.depth - 1}] (output), tau {c.dispersive_tau:g}, "
            f"lambda {c.dispersive_weight:g}, within the batch of each process and pass"
        )


def dispersive_loss(tokens: Tensor, tau: float) -> Tensor:
    """Compute the scalar L of tokens (N, T, D), in float32."""
    z = tokens.float().flatten(1)  # (N, T * D)
    z = (z - z.mean(0)) / math.sqrt(z.shape[1])  # no distance changes; the products below get small
    squares = z.square().sum(1)
    distances = squares[:, None] + squares - 2 * z @ z.T  # (N, N), squared
    return (-distances.clamp(min=0) / tau).flatten().logsumexp(0) - 2 * math.log(len(z))
