"""Loaders, which give each process its share of the data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from data.order import StepBatches
from data.source_protocol import Source
from data.streams import StreamedBatches, StreamSource
from runtime.signals import obey_parent_only


def as_it_is(batch):
    return batch


def make_loader(
    source: Source, batches: StepBatches | Sequence[list[int]], num_workers: int
) -> DataLoader:
    """Return an iterable of one process's batches (images, labels), in order.

    A source with `__getitems__` gives whole batches, and a stream makes its batches itself.

    Args:
        batches: the numbers of each batch's images; of a stream, those of training steps.
    """
    common: dict[str, Any] = dict(
        worker_init_fn=obey_parent_only, pin_memory=torch.cuda.is_available()
    )
    if isinstance(source, StreamSource):
        assert isinstance(batches, StepBatches)  # a stream cannot be read in another order
        streamed = StreamedBatches(source, batches, threads=num_workers)
        return DataLoader(streamed, batch_size=None, num_workers=min(1, num_workers), **common)
    whole = hasattr(source, "__getitems__")
    items: Any = source
    sampler: Any = batches
    return DataLoader(
        items,
        batch_sampler=sampler,
        collate_fn=as_it_is if whole else None,
        num_workers=num_workers,
        **common,
    )
