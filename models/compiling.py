"""Compilation by torch.compile: a network's blocks and final layer, and functions.

A block is compiled by itself, so that all blocks share a graph: of SiT-XL/2's 28 blocks one is
compiled. What is captured (layersync/capture.py) is recorded around it, which adds no graph.
"""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

Work = TypeVar("Work", bound=Callable)

BACKEND = "inductor"
# Graphs of a block: with and without gradients, in training and in sampling, each for one size of
# the batch and then for any. dynamo's limit of 8 counts them for all networks of a process.
GRAPHS = 16
LIMITS = "recompile_limit", "cache_size_limit"  # now, and in torch 2.6
CAPABILITY = 7, 0  # of GPUs that Triton compiles for


def can_compile() -> bool:
    """Return whether there is a GPU to compile for, and what that takes."""
    return torch.cuda.is_available() and needed_to_compile() is None


def check_can_compile() -> None:
    """Raise `ValueError` where there is a GPU and something lacks to compile for it."""
    if torch.cuda.is_available() and (missing := needed_to_compile()):
        raise ValueError(
            f"--compile: on this GPU it takes {missing}, which is not here; add it, or leave "
            f"--compile out"
        )


def needed_to_compile() -> str | None:
    """Return what it takes to compile for this process's GPU and is not there, or None."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton"
    if os.name == "posix":  # where Triton compiles what starts its kernels
        if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
            return "a C compiler (gcc, clang, or the one that CC names)"
        if not python_header().is_file():
            return f"Python's header files ({python_header()}, of the package python3-dev)"
    if torch.cuda.get_device_capability() < CAPABILITY:
        return "a GPU of compute capability 7.0 or more"
    return None


def python_header() -> Path:
    """Return where this Python's header is, by the rule that Triton follows."""
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's
    return Path(sysconfig.get_path("include", scheme), "Python.h")


def compile_network(network: nn.Module) -> None:
    """Have each block and the final layer of a SiT compiled in place, when they first run."""
    allow_graphs(GRAPHS)
    keep_graphs_whole()
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


def keep_graphs_whole() -> None:
    """Have a block be one graph in DDP, too.

    dynamo splits what runs in DDP wherever a bucket of gradients is full, so that their exchange
    begins before the backward pass is over. Blocks that are compiled one by one are parts enough:
    split again, each of SiT-XL's would be two graphs, with nothing fused across them.
    """
    import torch._dynamo

    torch._dynamo.config.optimize_ddp = False


def allow_graphs(count: int) -> None:
    """Let dynamo keep at least this many graphs of a function, instead of giving up on it."""
    import torch._dynamo

    config = torch._dynamo.config
    name = next(name for name in LIMITS if hasattr(config, name))
    setattr(config, name, max(count, getattr(config, name)))
