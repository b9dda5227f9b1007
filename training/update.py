"""Way from gradients to new weights: clipping, AdamW at the step's rate, the moving average."""

from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.config import OptimConfig
from training.methods.heads import Heads
from training.methods.method import Regularizer
from training.optimizer import learning_rate, make_optimizer
from training.parallel import Parallel


class Update:
    """The optimizers of the network and of the heads that regularisers train, and the EMA.

    Args:
        last_step: where a schedule of the learning rate ends.
    """

    def __init__(
        self,
        parallel: Parallel,
        regularizers: list[Regularizer],
        config: OptimConfig,
        last_step: int,
    ):
        self.parallel, self.config, self.last_step = parallel, config, last_step
        self.optimizer = make_optimizer(parallel.network, config)
        self.heads = Heads(regularizers, parallel.accelerator, config)
        self.average = get_ema_multi_avg_fn(config.ema_decay)

    def accumulating(self, last: bool) -> AbstractContextManager:
        """Around a backward pass: gradients are exchanged in the last one of a step only."""
        stack = ExitStack()
        stack.enter_context(self.parallel.accumulating(last))
        stack.enter_context(self.heads.accumulating(last))
        return stack

    def __call__(self, step: int) -> Tensor:
        """Make the step that follows `step` steps; returns the norm of all gradients, a scalar."""
        norm = self.heads.joint_norm(self.parallel.gradient_norm())
        network, limit = self.parallel.network, self.config.max_grad_norm
        if limit:
            for module in (network, self.heads.modules):
                torch.nn.utils.clip_grads_with_norm_(module.parameters(), limit, norm)
        for optimizer in (self.optimizer, *self.heads.optimizers):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)
            optimizer.step()
            optimizer.zero_grad()
        self.average(list(self.parallel.ema.parameters()), list(network.parameters()), None)
        return norm

    def rate(self, step: int) -> float:
        return learning_rate(self.config, step, self.last_step)

    def state(self) -> dict:
        """Return what a checkpoint keeps of weights and optimizers; a collective."""
        return self.parallel.state(self.optimizer) | self.heads.state()

    def load_state(self, state: dict) -> None:
        self.parallel.load_state(self.optimizer, state)
        self.heads.load_state(state)
