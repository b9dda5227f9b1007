"""Loaders, which give each process its share of the data, with what was drawn and read for it.

A loader's workers make whole steps ahead of time, each in one block of memory (data/packing.py).
"""

from collections.abc import Callable, Iterator, Sequence
from multiprocessing import AuthenticationError
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from data.order import StepBatches
from data.packing import Packed
from data.source_protocol import IndexedSource, Source
from data.streams import StreamSource
from runtime.command import RunError
from runtime.signals import obey_parent_only

Additions = Callable[[int, range, list[int] | None], dict[str, Tensor]]
"""Function of steps done, positions in the global batch, and numbers of the images there (None in a
stream): what else a step needs, CPU tensors (N, ...) by name. Workers may have to pickle it."""


def nothing_more(step: int, positions: range, images: list[int] | None) -> dict[str, Tensor]:
    return {}


def make_step_loader(
    source: Source, steps: StepBatches, num_workers: int, add: Additions = nothing_more
) -> DataLoader:
    """Return an iterable of one process's training steps, each a `Packed`, in order.

    A step has `images` (N, *source.shape), `labels` (N,) int64, and what `add` adds.
    """
    if isinstance(source, StreamSource):
        streamed = StreamedSteps(source, steps, num_workers, add)
        return make_whole(streamed, min(1, num_workers))
    indexed: Any = source
    return make_whole(IndexedSteps(indexed, steps, add), num_workers, sampler=steps.steps)


def make_loader(
    source: IndexedSource, batches: Sequence[list[int]], num_workers: int
) -> DataLoader:
    """Return an iterable of batches (images, labels), in order.

    Args:
        batches: the numbers of each batch's images.
    """
    return make_whole(IndexedBatches(source), num_workers, sampler=batches)


class WatchedLoader(DataLoader):
    """A loader that says when one of its processes was killed: `ConnectionError`.

    torch does too, unless the line to that process is known to be gone before the process is.
    """

    def __iter__(self) -> Iterator:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except (EOFError, FileNotFoundError, AuthenticationError) as error:
            if self.num_workers and is_lost_connection(error):
                raise ConnectionError("DataLoader worker ended") from error
            raise


def is_lost_connection(error: Exception) -> bool:
    """Return whether an error is of the line to a loading process, not one that came over it."""
    text = error.args[0] if error.args else ""
    if isinstance(error, AuthenticationError):
        return True
    if isinstance(text, str) and text:  # came from elsewhere, with the traceback there
        return "in pin memory thread" in text and "resource_sharer" in text
    return getattr(error, "filename", None) is None  # a socket's errors have none


def make_whole(data: Dataset, num_workers: int, sampler: Any = None) -> DataLoader:
    """Return a loader of whole batches, as `data` makes them of what `sampler` gives."""
    return WatchedLoader(
        data,
        batch_size=None,
        sampler=sampler,
        collate_fn=shared,
        num_workers=num_workers,
        worker_init_fn=obey_parent_only,
        pin_memory=torch.cuda.is_available(),
    )


def shared(batch):
    """Return a batch, a `Packed` or (images, labels); a loading process puts it in shared memory.

    Raises `RunError` when there is no room. (It would be put there anyway, but by a thread, whose
    error nobody hears: both processes would wait for ever.)
    """
    if get_worker_info() is None:
        return batch
    tensors = (batch.block,) if isinstance(batch, Packed) else batch
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except RuntimeError as error:
        size = sum(tensor.nbytes for tensor in tensors)
        raise RunError(
            f"no shared memory for a batch of {size / 1e6:.3g} MB ({error}); give this machine or "
            f"container more of it (/dev/shm, docker run --shm-size=8g), or give --num-workers 0"
        ) from None
    return batch


class IndexedBatches(Dataset):
    """Batches of a source by the numbers of their images."""

    def __init__(self, source: IndexedSource):
        self.source = source

    def __getitem__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        return read_items(self.source, numbers)


class IndexedSteps(Dataset):
    """Steps by their numbers, of a source whose items can be read in any order."""

    def __init__(self, source: IndexedSource, order: StepBatches, add: Additions):
        self.source, self.order, self.add = source, order, add

    def __getitem__(self, step: int) -> Packed:
        positions = self.order.shard
        numbers = self.order.indices(step, positions)
        images, labels = read_items(self.source, numbers)
        given = self.add(step, positions, numbers)
        return Packed.of(step, {"images": images, "labels": labels, **given})


class StreamedSteps(IterableDataset):
    """Steps of a stream, in order; threads decode, so that a process reads each file once."""

    def __init__(self, source: StreamSource, order: StepBatches, threads: int, add: Additions):
        self.source, self.order, self.threads, self.add = source, order, threads, add

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Packed]:
        batches = self.source.batches(self.order, self.threads)
        for step, (images, labels) in zip(self.order.steps, batches, strict=True):
            given = self.add(step, self.order.shard, None)
            yield Packed.of(step, {"images": images, "labels": labels, **given})


def read_items(source: IndexedSource, numbers: list[int]) -> tuple[Tensor, Tensor]:
    """Read items (N, *shape) and labels (N,) int64; at once where the source has a way to."""
    if hasattr(source, "__getitems__"):
        return source.__getitems__(numbers)
    images, labels = zip(*(source[number] for number in numbers), strict=True)
    return torch.stack(images), torch.tensor(labels)
