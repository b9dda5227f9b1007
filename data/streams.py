"""Streams: data that is read over the network during training, in an order set by the seed.

The data's files are divided among L lanes. Each lane reads its own files in a random order, through
a buffer from which rows are drawn. Positions l B/L ... (l + 1) B/L - 1 of the global batch B come
from lane l. So a batch does not depend on the number of processes, and a process reads only the
lanes of its own positions. A resumed run reads the rows again that the epoch has already given, but
does not decode them.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from data.data_config import TrainingData
from data.order import StepBatches
from data.rows import HUB_NAMES, load_rows
from data.source_protocol import ImageSource
from runtime.command import RunError
from runtime.randomness import ORDER

BUFFER = 16_384  # rows, not decoded, over all lanes


class StreamSource(ImageSource):
    """A stream of a split of a `datasets` name or a folder of parquet files."""

    def __init__(self, given: str, name: str, c: TrainingData):
        self.rows, self.columns = load_rows(given, name, c, streaming=True)
        self.image_size, self.classes = c.known_size, c.known_classes
        self.num_classes = self.columns.num_classes
        self.class_names = self.columns.class_names
        self.length = count_rows(self.rows, HUB_NAMES.get(name, name), c.cache_dir)

    def __len__(self) -> int:
        return self.length

    def batches(self, order: StepBatches, threads: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's images (n, 3, H, W) and labels (n,) for each step of `order`."""
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for rows in self.rows_of_steps(order):
                images, labels = zip(*pool.map(self.read, rows), strict=True)
                yield torch.stack(images), torch.tensor(labels)

    def rows_of_steps(self, order: StepBatches) -> Iterator[list[tuple[str, dict]]]:
        count = lane_count(order.batch, self.rows.num_shards)
        each = order.batch // count  # positions of a lane
        shard = order.shard
        lanes = range(shard.start // each, (shard.stop - 1) // each + 1)
        steps_of_epoch = self.length // order.batch
        epoch, readers = None, []
        for step in order.steps:
            now, done = divmod(step, steps_of_epoch)
            if now != epoch:
                epoch = now
                readers = [self.lane(order.seed, epoch, lane, count) for lane in lanes]
                for reader in readers:
                    next(islice(reader, done * each, done * each), None)  # what was seen already
            rows = [row for reader in readers for row in islice(reader, each)]
            first = shard.start - lanes.start * each
            yield rows[first : first + len(shard)]

    def lane(self, seed: int, epoch: int, lane: int, count: int) -> Iterator[tuple[str, dict]]:
        """Yield (name, row) of a lane from the beginning of an epoch; short lanes start again.

        Rows are shuffled here and not by `datasets`, whose order depends on its version and on the
        process.
        """
        generator = np.random.default_rng((ORDER, seed, epoch, lane))
        files, size = range(lane, self.rows.num_shards, count), max(1, BUFFER // count)
        while True:
            buffer: list[tuple[str, dict]] = []
            for named in self.rows_of_files(generator.permutation(files).tolist()):
                if len(buffer) < size:
                    buffer.append(named)
                    continue
                i = generator.integers(size)
                yield buffer[i]
                buffer[i] = named
            generator.shuffle(buffer)
            yield from buffer

    def rows_of_files(self, files: list[int]) -> Iterator[tuple[str, dict]]:
        for k in files:
            for i, row in enumerate(self.rows.shard(num_shards=self.rows.num_shards, index=k)):
                yield f"row {i} of file {k}", row

    def read(self, named: tuple[str, dict]) -> tuple[Tensor, int]:
        name, row = named
        image, label = self.columns.read(row, self.image_size, name)
        if not 0 <= label < self.classes:
            raise RunError(f"{name}: label {label}, --num-classes says {self.classes}")
        return image, label


def lane_count(batch: int, files: int) -> int:
    """Return the largest number of lanes that divides the batch and leaves each lane a file."""
    return max(lanes for lanes in range(1, min(batch, files) + 1) if batch % lanes == 0)


def count_rows(rows, name: str, cache_dir: str | None) -> int:
    """Return the number of rows, from the data's description or from its parquet footers."""
    split = str(rows.split)
    if rows.info.splits and rows.info.splits[split].num_examples:
        return rows.info.splits[split].num_examples
    import datasets
    import fsspec
    import pyarrow.parquet

    builder = datasets.load_dataset_builder(name, cache_dir=cache_dir)
    total = 0
    for path in (builder.config.data_files or {}).get(split, []):
        if not str(path).endswith(".parquet"):
            raise ValueError(
                f"{name}: its number of rows is not known without reading it all ({path} is not a "
                f"parquet file); read it without --streaming"
            )
        with fsspec.open(path) as file:
            total += pyarrow.parquet.read_metadata(file).num_rows
    return total
