"""Counters of a step's operations: kernels, traffic, copies, waits, and what autograd keeps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from scripts.benchmarks.counted_graphs import Kernel

FREE = {  # operations that start no kernel
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias",
    "lift_fresh", "_unsafe_view", "_reshape_alias", "_local_scalar_dense",
}  # fmt: skip
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim"}


@dataclass
class Counts:
    """Operations, traffic and copies of a step, or of a part of it."""

    kernels: Counter[str] = field(default_factory=Counter)
    """operations that are not views, by name"""
    traffic: int = 0
    """bytes that operations other than products and attention read and write"""
    copies: list[tuple[int, bool]] = field(default_factory=list)
    """(bytes, whether it was waited for) of each copy from the CPU to the device"""
    waits: list[str] = field(default_factory=list)
    """operations at which the CPU waits for the device"""

    @property
    def launches(self) -> int:
        return self.kernels.total()


class Counting(TorchDispatchMode):
    """Counts operations by the part of the step in which they are, as `part` says."""

    def __init__(self):
        super().__init__()
        self.part = "forward and update"
        self.parts: dict[str, Counts] = {}
        self.counts_now = False

    def __enter__(self):
        self.counts_now = True
        return super().__enter__()

    def __exit__(self, *raised):
        self.counts_now = False
        return super().__exit__(*raised)

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True  # else torch.compile leaves everything uncompiled in it

    def add(self, name: str, traffic: int) -> None:
        """Count a kernel that is no operation of torch's."""
        counts = self.parts.setdefault(self.part, Counts())
        counts.kernels[name] += 1
        counts.traffic += traffic

    def graph(self, kernels: Sequence[Kernel], run: Callable) -> Any:
        """Run a compiled graph, of which its kernels count and not its operations."""
        if not self.counts_now:
            return run()
        for kernel in kernels:
            self.add("compiled" if kernel.own else "call", kernel.traffic if kernel.own else 0)
        self.counts_now = False
        try:
            return run()
        finally:
            self.counts_now = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.count(func, given, made, kwargs.get("non_blocking", False))
        return out

    def count(self, func, given: list[Tensor], made: list[Tensor], patient: bool) -> None:
        if not self.counts_now:
            return
        counts = self.parts.setdefault(self.part, Counts())
        room, name = func._schema.name.split("::")
        if room != "aten":
            return  # a question about a tensor, a mark for a profiler
        devices = {tensor.device.type for tensor in given}, {t.device.type for t in made}
        if name in ("_to_copy", "copy_", "_foreach_copy_") and "cuda" in devices[0] | devices[1]:
            source = given[-1] if name == "copy_" else given[0]
            if source.device.type == "cpu" and made[0].device.type == "cuda" and source.dim():
                counts.copies.append((source.nbytes, not patient))
            elif source.device.type == "cuda" and made[0].device.type == "cpu" and not patient:
                counts.waits.append(name)
        if name in WAITING:
            counts.waits.append(name)
        if name in FREE or is_view(func):
            return
        counts.kernels[name] += 1
        if name in PRODUCTS or "attention" in name:
            return
        written = made or (given if is_written(func) else [])
        counts.traffic += sum(map(touched, given)) + sum(map(touched, written))


def is_view(func) -> bool:
    """Return whether an operation only looks at its argument in another way."""
    aliases = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def is_written(func) -> bool:
    aliases = [argument.alias_info for argument in func._schema.arguments]
    return any(alias is not None and alias.is_write for alias in aliases)


def touched(tensor: Tensor) -> int:
    """Return the bytes of a tensor's content; what a stride of 0 repeats counts once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride) * tensor.itemsize


class Saved:
    """Storages that autograd keeps for a backward pass."""

    def __init__(self):
        self.tensors: list[Tensor] = []

    def hooks(self) -> AbstractContextManager:
        def keep(tensor: Tensor) -> Tensor:
            self.tensors.append(tensor)
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)

    def bytes(self, modules: list[nn.Module]) -> int:
        """Return their bytes, each storage once, without those of the modules' weights."""
        own = {id_of(p) for module in modules for p in module.parameters()}
        sizes = {id_of(tensor): tensor.untyped_storage().nbytes() for tensor in self.tensors}
        return sum(size for key, size in sizes.items() if key not in own)


def id_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
