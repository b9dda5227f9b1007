"""Small networks that a regulariser trains along with the network, and leaves behind after it.

They have an AdamW of their own with the network's settings, and entries of their own in a
checkpoint: `heads` and `heads_opt`. `model`, `ema` and `opt` stay those of the network alone. The
heads are whole on every process, also where the network is sharded.
"""

from contextlib import ExitStack, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
)

from training.config import OptimConfig
from training.methods.method import Regularizer
from training.optimizer import make_optimizer
from training.parallel import WHOLE, load_optimizer_state


class Heads:
    """The heads of these regularisers, each under its regulariser's name.

    A regulariser then calls its head with its wrapper around it, which synchronises gradients.
    """

    def __init__(self, regularizers: list[Regularizer], accelerator, config: OptimConfig):
        own = [regularizer for regularizer in regularizers if regularizer.head is not None]
        heads: dict[str, Any] = {regularizer.name: regularizer.head for regularizer in own}
        self.accelerator, self.modules = accelerator, nn.ModuleDict(heads)
        for regularizer in own:
            regularizer.head = accelerator.prepare_model(regularizer.head)
        self.wrapped = [regularizer.head for regularizer in own]
        self.optimizers = [make_optimizer(self.modules, config)] if own else []

    def accumulating(self, last: bool):
        """Return the context of a backward pass, as in `Parallel`."""
        if last or not self.wrapped:
            return nullcontext()
        stack = ExitStack()
        for head in self.wrapped:
            stack.enter_context(self.accelerator.no_sync(head))
        return stack

    def joint_norm(self, norm: Tensor) -> Tensor:
        """Return the norm of all gradients, given that of the network's."""
        gradients = [p.grad for p in self.modules.parameters() if p.grad is not None]
        if not gradients:
            return norm
        return torch.stack([norm, torch.nn.utils.get_total_norm(gradients)]).square().sum().sqrt()

    def state(self) -> dict:
        """Return what a checkpoint keeps of them, on the CPU; nothing if there are none."""
        if not self.optimizers:
            return {}
        return {
            "heads": get_model_state_dict(self.modules, options=WHOLE),
            "heads_opt": get_optimizer_state_dict(self.modules, self.optimizers[0], options=WHOLE),
        }

    def load_state(self, state: dict) -> None:
        """Load what `state` gave, saved from any number of processes."""
        for optimizer in self.optimizers:
            set_model_state_dict(self.modules, state["heads"])
            load_optimizer_state(self.modules, optimizer, state["heads_opt"])


def make_head(widths: list[int], seed: int) -> nn.Sequential:
    """Linear layers with SiLU between them, initialised as DiT's are: Xavier, no bias.

    Args:
        widths: of the input, of hidden layers and of the output.
        seed: of the weights, of which nothing else depends.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for width, following in pairwise(widths):
        linear = nn.Linear(width, following)
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])
