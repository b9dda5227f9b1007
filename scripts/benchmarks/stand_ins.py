"""What stands in for a data set, accelerate and the one-pass update where a step is counted."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from data.latents import sample_posterior
from scripts.benchmarks.counted_operations import Counting, touched

LATENT = (4, 32, 32)


class Latents:
    """Cached latents of nothing in particular, on the CPU."""

    shape = (2, 2, *LATENT)

    def __len__(self) -> int:
        return 1024

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        moments = torch.zeros(len(numbers), *self.shape, dtype=torch.float16)
        return moments, torch.zeros(len(numbers), dtype=torch.int64)

    def encode(self, items: Tensor, mirrored: Tensor, noise: Tensor) -> Tensor:
        return sample_posterior(items, mirrored, noise, 0.18215)


class OneProcess:
    """The part of accelerate's `Accelerator` that a step needs, on a device that may be absent."""

    num_processes, is_main_process = 1, True

    def __init__(self, device: str, counting: Counting):
        self.device, self.counting = torch.device(device), counting
        self.network: Any = None

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 autocast; torch.autocast itself refuses CUDA where there is no GPU."""
        kind = self.device.type
        before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        torch.set_autocast_enabled(kind, True)
        torch.set_autocast_dtype(kind, torch.bfloat16)
        torch.autocast_increment_nesting()
        try:
            yield
        finally:
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()
            torch.set_autocast_enabled(kind, before[0])
            torch.set_autocast_dtype(kind, before[1])

    def prepare_model(self, module: nn.Module):
        self.network = self.network or module

        def call(*args, **kwargs) -> Tensor:
            with self.autocast():
                out = module(*args, **kwargs)
            return out.float()

        return call

    def backward(self, loss: Tensor) -> None:
        """Give every weight a gradient; on CUDA without asking autograd for it."""
        if self.device.type == "cuda":
            for parameter in self.network.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
            return
        self.counting.part = "backward"
        loss.backward()
        self.counting.part = "forward and update"

    def no_sync(self, module) -> AbstractContextManager:
        return nullcontext()

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        return tensor


class CountedPass:
    """The step of training/one_pass.py: its kernel as it is counted, and what is done around it."""

    def __init__(self, optimizer: torch.optim.AdamW, averages: list[Tensor], counting: Counting):
        (group,) = optimizer.param_groups
        self.learned, self.counting = group["params"], counting
        states = [optimizer.state[p] for p in self.learned]
        self.counts = [state["step"] for state in states]
        moments = [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]
        self.updated = [*self.learned, *moments, *averages]  # each read and written

    @torch.no_grad()
    def __call__(self, scale: Tensor | None = None) -> Tensor:
        torch._foreach_add_(self.counts, 1)
        read = sum(touched(p.grad) for p in self.learned)
        self.counting.add("one_pass", read + 2 * sum(map(touched, self.updated)))
        return torch.zeros(1024).sum().sqrt()  # of squares, one for each 4096 elements


def stay(module: Any) -> None:
    """Make `module.to` leave a module where it is, with weights that it cannot move."""
    module.to = lambda *where, **how: module


def move(module: nn.Module, device: str) -> None:
    """Give a module other fake weights, on this device; `Module.to` cannot move fake ones."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(part, name, nn.Parameter(fake))


def read_features(images: list[int], mirrored: Tensor) -> Tensor:
    return torch.zeros(len(images), 256, 768, dtype=torch.float16)
