"""The processes of a launch together: what the first one tells all, and who takes which images.

Process r of an evaluation takes the r-th contiguous share, so that joining shares by rank is file
order. Results travel as CPU tensors over gloo, whatever else the processes use between them.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Timer
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from runtime.command import RunError, warn
from runtime.launch import MEETING, local_rank, world_size
from runtime.progress import Progress
from runtime.stopping import signals_kill

T = TypeVar("T")
# Others wait for the first process while it lists millions of files and takes the root of FID's
# covariances; a process that died is noticed by the launcher, long before this.
PATIENCE = timedelta(hours=1)
SECONDS_OF_SILENCE = 60.0


class Processes:
    """The processes of this launch, or this one alone; a collective to make."""

    def __init__(self):
        self.group = None
        if dist.is_initialized():
            self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        else:
            join_group()
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.count = dist.get_world_size() if dist.is_initialized() else 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, total: int, rank: int | None = None) -> range:
        """Return which of `total` images a process takes, this one unless `rank` says another."""
        rank = self.rank if rank is None else rank
        return range(total * rank // self.count, total * (rank + 1) // self.count)

    def batches(self, images, batch_size: int, what: str) -> Iterator[np.ndarray]:
        """Yield this process's share of `images` in batches; the first one shows its progress."""
        share = self.share(len(images))
        with Progress(what, len(share), "image", shown=self.first) as progress:
            for start in range(share.start, share.stop, batch_size):
                batch = images[start : min(start + batch_size, share.stop)]
                yield batch
                progress.update(len(batch))

    def collect(self, tensor: Tensor) -> list[Tensor]:
        """Return all tensors (one dtype, any shapes of one rank) by rank; [] but on the first."""
        tensor = tensor.contiguous().cpu()
        if self.count == 1:
            return [tensor]
        shape = torch.tensor(tensor.shape)
        if not self.first:
            dist.send(shape, 0, self.group)
            dist.send(tensor, 0, self.group)
            return []
        tensors = [tensor]
        for rank in range(1, self.count):
            their_shape = torch.empty_like(shape)
            dist.recv(their_shape, rank, self.group)
            theirs = tensor.new_empty(their_shape.tolist())
            dist.recv(theirs, rank, self.group)
            tensors.append(theirs)
        return tensors

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of everyone's tensor, of one shape, on every process."""
        if self.count == 1:
            return tensor
        total = tensor.detach().to("cpu", copy=True)
        dist.all_reduce(total, group=self.group)
        return total.to(tensor.device)

    def everyones(self, tensor: Tensor) -> list[Tensor]:
        """Return everyone's tensor, of any shape, by rank, on every process."""
        if self.count == 1:
            return [tensor]
        tensors: list = [None] * self.count
        dist.all_gather_object(tensors, tensor.detach().cpu(), group=self.group)
        return [theirs.to(tensor.device) for theirs in tensors]

    def close(self) -> None:
        """Leave every group; for programs that end here."""
        if self.count > 1:
            # torch 2.6 waits for gloo's threads without letting go of Python's lock, which one of
            # them may still want, to free the tensor that it sent last: both would wait forever
            time.sleep(0.1)
            dist.destroy_process_group()


@contextmanager
def meeting() -> Iterator[None]:
    """Wait, in a library, for the others of this launch: not in silence, nor deaf to signals."""
    place, port = (os.environ.get(name) for name in MEETING)
    told = f"still waiting for other processes of this launch ({world_size()} at {place}:{port})"
    timer = Timer(SECONDS_OF_SILENCE, warn, [told])
    timer.daemon = True
    timer.start()
    try:
        with signals_kill():
            yield
    finally:
        timer.cancel()


def join_group() -> bool:
    """Join the processes of this launch in a group over gloo; return whether this made one.

    It makes none for a process that is alone, or in a group already.
    """
    if dist.is_initialized() or world_size() == 1:
        return False
    with meeting():
        dist.init_process_group("gloo", timeout=PATIENCE)
    return True


@contextmanager
def joined_for_a_moment() -> Iterator[None]:
    """Join the processes while the block lasts, so that `told_by_first` tells all of them."""
    own = join_group()
    yield
    if own:
        dist.barrier()  # the first one keeps the store until all have heard
        dist.destroy_process_group()


class Alone(Processes):
    """A process that works without the others: for work that each one does whole."""

    def __init__(self):
        self.group, self.rank, self.count = None, 0, 1


def told_by_first(decide: Callable[[], T]) -> T:
    """Return what `decide()` gives on the first process, on all of them; a collective.

    For what every process would look up and might see otherwise, as a listing of a network file
    system that is some seconds old. What `decide` raises for the user is raised on all. Without a
    process group each one decides for itself.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return decide()
    told: list = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = decide()
        except (ValueError, RunError, OSError) as error:
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]


def choose_device() -> torch.device:
    """Return this process's GPU, counted on its own machine; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep products and convolutions in full float32: TF32 changes the third digit of FID."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
