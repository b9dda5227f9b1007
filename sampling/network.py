"""A network for a solver: it counts evaluations, in a chosen precision, with float32 outputs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.compiling import compile_network


class Network:
    """A network that counts its evaluations, and makes them in bfloat16 if asked.

    `evaluations` is the solver's number of function evaluations (NFE); `passes` counts a guided one
    twice, for its conditional and its unconditional half. `on_evaluation` is told the number so
    far, and may be replaced.

    Args:
        model: a SiT, or anything called as model(x, t, y) with `forward_with_cfg`.
        bf16: whether its matrix products are bfloat16; inputs and outputs are float32.
    """

    def __init__(self, model, bf16: bool = False):
        self.model, self.bf16 = model, bf16
        self.on_evaluation: Callable[[int], None] = lambda evaluations: None
        self.reset()

    def reset(self) -> None:
        self.evaluations = self.passes = 0

    @property
    def null_label(self) -> int:
        return self.model.null_label

    def __call__(self, x: Tensor, *args, **kwargs) -> Tensor:
        self._count(passes=1)
        with self.autocast(x):
            return self.model(x, *args, **kwargs).to(x.dtype)

    def forward_with_cfg(self, x: Tensor, *args, **kwargs) -> Tensor:
        self._count(passes=2)
        with self.autocast(x):
            return self.model.forward_with_cfg(x, *args, **kwargs).to(x.dtype)

    def _count(self, passes: int) -> None:
        self.evaluations, self.passes = self.evaluations + 1, self.passes + passes
        self.on_evaluation(self.evaluations)

    def autocast(self, x: Tensor):
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16)


def prepare_model(model: nn.Module, bf16: bool, compile: bool) -> nn.Module:
    """Cast weights once that autocast would cast in every evaluation, and compile the network."""
    if bf16:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(torch.bfloat16)
    if compile:
        compile_network(model)
    return model


def describe_dtype(bf16: bool, tf32: bool, device: torch.device) -> str:
    """Return the name of the arithmetic that a network is evaluated in."""
    rounds = tf32 and device.type == "cuda"
    if bf16:
        whole = device.type == "cuda" and not tf32
        return "bfloat16 (autocast), else float32" if whole else "bfloat16 (autocast)"
    return "float32 (TF32 products)" if rounds else "float32"
