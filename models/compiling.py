"""Compilation by torch.compile: a network's blocks and final layer, and functions.

A block is compiled by itself, so that all blocks share a graph: of SiT-XL/2's 28 blocks one is
compiled. What is captured (layersync/capture.py) is recorded around it, which adds no graph.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Work = TypeVar("Work", bound=Callable)

BACKEND = "inductor"
# Graphs of a block: with and without gradients, in training and in sampling, each for one size of
# the batch and then for any. dynamo's limit of 8 counts them for all networks of a process.
GRAPHS = 16
LIMITS = "recompile_limit", "cache_size_limit"  # now, and in torch 2.6


def can_compile() -> bool:
    """Return whether there is a GPU to compile for, and Triton to compile with."""
    return torch.cuda.is_available() and importlib.util.find_spec("triton") is not None


def compile_network(network: nn.Module) -> None:
    """Have each block and the final layer of a SiT compiled in place, when they first run."""
    allow_graphs(GRAPHS)
    blocks = network.get_submodule("blocks").children()
    for module in (*blocks, network.get_submodule("final_layer")):
        compiled(module)


def compiled(work: Work) -> Work:
    """Return a function compiled, or a module compiled in place; it happens when they first run."""
    if isinstance(work, nn.Module):
        work.compile(backend=BACKEND)
        return work
    function: Any = torch.compile(work, backend=BACKEND)
    return function


def allow_graphs(count: int) -> None:
    """Let dynamo keep at least this many graphs of a function, instead of giving up on it."""
    import torch._dynamo

    config = torch._dynamo.config
    name = next(name for name in LIMITS if hasattr(config, name))
    setattr(config, name, max(count, getattr(config, name)))
