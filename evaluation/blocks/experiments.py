"""Experiments: the words of --probes, each a way from checkpoints to numbers over blocks.

A new one is a file with a class like `Experiment` and a row in `EXPERIMENTS`; its word and flags
are in evaluation/blocks/blocks_config.py. It feeds probes (evaluation/blocks/probes.py) or heads
(evaluation/blocks/trained_heads.py) with tokens (evaluation/blocks/tokens.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from data.encoding import Encoding
from data.source_protocol import IndexedSource
from evaluation.blocks.blocks_config import BlocksConfig
from evaluation.blocks.example_batches import Examples, MakeTarget
from evaluation.blocks.probed_checkpoint import ProbedCheckpoint
from evaluation.blocks.tokens import Batch, TokenExtractor
from runtime.processes import Processes
from runtime.progress import Progress

Numbers = Sequence[int] | np.ndarray
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.999)  # the default of --times


@dataclass(frozen=True)
class Subject:
    """A checkpoint with the flags of the command, ready to be probed by this process.

    Args:
        name: what tables and pictures call it.
        numbers: of the blocks that are probed, from 1.
    """

    name: str
    checkpoint: ProbedCheckpoint
    config: BlocksConfig
    processes: Processes
    numbers: tuple[int, ...]

    @cached_property
    def extractor(self) -> TokenExtractor:
        one, c = self.checkpoint, self.config
        blocks = [one.blocks[number - 1] for number in self.numbers]
        true_labels = c.labels == "true"
        return TokenExtractor(one.network, blocks, one.transport.path, true_labels, c.bf16)

    def examples(self, source: IndexedSource, encoding: Encoding | None = None) -> Examples:
        """Return a source's images as this network sees them."""
        return Examples(
            source,
            encoding or self.checkpoint.encode(source),
            seed=self.config.seed,
            device=self.checkpoint.device,
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
        )

    def stream(
        self, examples: Examples, numbers: Numbers, target: MakeTarget, what: str
    ) -> Iterator[Batch]:
        """Yield this process's share of some images in batches, and show how far it is."""
        own = self.share(numbers, what)
        shown = self.processes.first
        with Progress(f"{self.name}, {what}", len(own), "image", shown=shown) as progress:
            for batch in examples.batches(own, target):
                yield batch
                progress.update(len(batch.x_1))

    def times(self, usual: Sequence[float] = TIMES) -> tuple[float, ...]:
        return tuple(usual if self.config.times is None else self.config.times)

    def share(self, numbers: Numbers, what: str) -> list[int]:
        """Return this process's part of some image numbers; `ValueError` if there are too few."""
        if len(numbers) < self.processes.count:
            raise ValueError(
                f"{len(numbers)} images {what} for {self.processes.count} processes: use fewer "
                f"processes, or more images"
            )
        own = self.processes.share(len(numbers))
        return [int(i) for i in numbers[own.start : own.stop]]


@dataclass(frozen=True)
class Measured:
    """The numbers of one probe of one checkpoint.

    Args:
        title: what the headline is, for the picture's axis.
        values: rows over blocks at each time, (times, blocks), by the name of the number. The first
            is the headline, of which pictures and the summary are made.
        times: of the rows; empty where a number belongs to no time, which then has one row.
        blocks: numbers of the blocks, from 1; of a run of blocks, the first.
        percent: whether the headline is a share, shown in percent.
        chance: the headline of a probe that knows nothing, if there is such a number.
        maps: matrices over pairs of blocks, drawn as heat maps, by title.
        more: whatever else is worth keeping, JSON-compatible.
    """

    title: str
    values: dict[str, list[list[float]]]
    times: tuple[float, ...]
    blocks: tuple[int, ...]
    percent: bool = False
    chance: float | None = None
    maps: dict[str, list[list[float]]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        return next(iter(self.values))


class Experiment(Protocol):
    """A way to measure blocks. Making one checks everything that it needs, and measures nothing.

    Args:
        words: the values of --probes that it answers.
        subjects: all checkpoints.

    Raises `ValueError` for what cannot be measured.
    """

    def __init__(self, words: tuple[str, ...], subjects: Sequence[Subject]): ...

    def recipe(self, subject: Subject) -> dict:
        """Return everything that determines its numbers besides the checkpoint and --seed."""

    def measure(self, subject: Subject, scratch: Path) -> dict[str, Measured]:
        """Return the numbers of each of its words, and any more, by word; a collective.

        Args:
            scratch: a path for what lets a killed measurement go on; removed afterwards.
        """


EXPERIMENTS = {  # value of --probes: module and class, imported when it is asked for
    "linear": "linear_experiment:Linear",
    "cka": "alignment_experiment:Alignment",
    "cknna": "alignment_experiment:Alignment",
    "mutual-knn": "alignment_experiment:Alignment",
    "removal": "removal_experiment:Removal",
    "segmentation": "segmentation_experiment:Segmentation",
}


def find_experiment(word: str) -> type[Experiment]:
    module, name = EXPERIMENTS[word].split(":")
    return getattr(import_module(f"evaluation.blocks.{module}"), name)


def checkpoint_name(path: str) -> str:
    """Return what a checkpoint is called unless told: its run's folder, or the file's name."""
    file = Path(path)
    return file.resolve().parent.parent.name if file.parent.name == "checkpoints" else file.stem


def as_rows(numbers: Tensor) -> list[list[float]]:
    """Return numbers (times, blocks) as plain lists."""
    return numbers.double().cpu().tolist()
