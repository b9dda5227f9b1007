"""Way from gradients to new weights: clipping, AdamW at the step's rate, the moving average."""

from collections.abc import Callable
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
        self.optimizer = make_optimizer(parallel.masters, config)
        self.heads = Heads(regularizers, parallel.accelerator, config)
        self.average = get_ema_multi_avg_fn(config.ema_decay)
        # clipping needs the norm before the step, of gradients that are not in the masters yet
        apart = parallel.masters is not parallel.network and config.max_grad_norm is not None
        self.fuses = parallel.compiled and parallel.accelerator.device.type == "cuda" and not apart
        self.one_pass: Callable[..., Tensor] | None = None  # made once the optimizer has a state

    def accumulating(self, last: bool) -> AbstractContextManager:
        """Return the context of a backward pass: only a step's last one exchanges gradients."""
        stack = ExitStack()
        stack.enter_context(self.parallel.accumulating(last))
        stack.enter_context(self.heads.accumulating(last))
        return stack

    def __call__(self, step: int) -> Tensor:
        """Make the step that follows `step` steps; returns the norm of all gradients, a scalar."""
        for optimizer in (self.optimizer, *self.heads.optimizers):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)
        norm = self.in_one_pass() if self.fuses and self.optimizer.state else self.in_turn()
        for optimizer in self.heads.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.optimizer.zero_grad()
        return norm

    def in_turn(self) -> Tensor:
        """Take the norm, clip, update the network and then its average; returns the norm."""
        parallel, limit = self.parallel, self.config.max_grad_norm
        parallel.collect_gradients()
        norm = self.heads.joint_norm(parallel.gradient_norm())
        if limit:
            for module in (parallel.masters, self.heads.modules):
                torch.nn.utils.clip_grads_with_norm_(module.parameters(), limit, norm)
        self.optimizer.step()
        self.average(list(parallel.ema.parameters()), list(parallel.masters.parameters()), None)
        parallel.publish_weights()
        return norm

    def in_one_pass(self) -> Tensor:
        """Do what `in_turn` does, by one kernel, to the last bits of rounding."""
        limit = self.config.max_grad_norm
        self.one_pass = self.one_pass or self.parallel.one_pass(self.optimizer, self.config)
        if not limit:
            return self.heads.joint_norm(self.one_pass())
        norm = self.heads.joint_norm(self.parallel.gradient_norm())
        self.one_pass(scale=(limit / (norm + 1e-6)).clamp(max=1))
        torch.nn.utils.clip_grads_with_norm_(self.heads.modules.parameters(), limit, norm)
        return norm

    def rate(self, step: int) -> float:
        return learning_rate(self.config, step, self.last_step)

    def state(self) -> dict:
        """Return what a checkpoint keeps of weights and optimizers; a collective."""
        return self.parallel.state(self.optimizer) | self.heads.state()

    def load_state(self, state: dict) -> None:
        self.parallel.load_state(self.optimizer, state)
        self.one_pass = None  # it knows where the tensors were
        self.heads.load_state(state)
