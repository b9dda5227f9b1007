"""lambda over training: a schedule of the step, a cut-off, a stop at a threshold of similarity."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from training.methods.layer_sync import RegScheduleConfig


def weight_at(c: RegScheduleConfig, weight: float, step: int, last_step: int) -> float:
    """lambda of the step that follows `step` steps.

    It rises linearly and reaches `weight` with step number `reg_warmup_steps`, goes from there to
    `reg_weight_end` at `reg_decay_steps` (`last_step` unless given) and is 0 from
    `reg_cutoff_step` on. With p from 0 to 1 on the way and w_1 the end value:

        linear      w_1 + (w - w_1) (1 - p)
        cosine      w_1 + (w - w_1) (1 + cos(pi p)) / 2
        polynomial  w_1 + (w - w_1) (1 - p)^power
    """
    if c.reg_cutoff_step is not None and step >= c.reg_cutoff_step:
        return 0.0
    if step < c.reg_warmup_steps:
        return weight * (step + 1) / c.reg_warmup_steps
    end = last_step if c.reg_decay_steps is None else c.reg_decay_steps
    done = min(1.0, (step - c.reg_warmup_steps) / max(1, end - c.reg_warmup_steps))
    left = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "polynomial": (1 - done) ** c.reg_power,
    }[c.reg_scheduler]
    end_weight = weight if c.reg_scheduler == "constant" else c.reg_weight_end
    return end_weight + (weight - end_weight) * left


class SimilarityStop:
    """Switches lambda off while, or once, a moving average of the similarity is over a threshold.

    Everything stays on the device: nothing waits for it.

    Args:
        reduce: the mean of a tensor over all processes, a collective.
    """

    def __init__(self, c: RegScheduleConfig, reduce: Callable[[Tensor], Tensor], device):
        self.c, self.reduce = c, reduce
        # the average so far, the sum of its weights (it starts at 0), whether lambda is on
        self.state = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=device)

    @property
    def active(self) -> Tensor:
        """1 or 0, a scalar."""
        return self.state[2]

    def update(self, similarity: Tensor) -> None:
        """After a step, with this process's mean similarity in it."""
        decay, threshold = self.c.reg_similarity_decay, self.c.reg_similarity_threshold
        mean = self.reduce(similarity.double())
        average = decay * self.state[0] + (1 - decay) * mean
        weights = decay * self.state[1] + (1 - decay)
        active = (average / weights <= threshold).double()
        if self.c.reg_threshold_mode == "permanent":
            active = active * self.state[2]
        self.state = torch.stack([average, weights, active])
