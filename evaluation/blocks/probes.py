"""Probes of the blocks of a network: the tokens of every block at several times -> named numbers.

A probe measures the tokens z (N, T, D) of every block at one time (evaluation/blocks/tokens.py).
The standard probes measure how well a linear classifier predicts the class from them
(evaluation/blocks/linear_probe.py), their effective rank and the similarity of blocks
(evaluation/blocks/token_statistics.py). A new probe is a class with the methods of `Probe`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from evaluation.blocks.linear_probe import LinearAccuracy
from evaluation.blocks.token_statistics import BlockSimilarity, EffectiveRank
from evaluation.blocks.tokens import Batch, TokenExtractor
from runtime.processes import Alone, Processes
from runtime.progress import Progress

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # the middles of fifths of [0, 1]: their mean is one over t


class Probe(Protocol):
    """A measurement of the tokens of every block of a network at one time of the path.

    Batches to fit come first, then held-out ones: the tokens of each block in order, (N, T, D)
    float32, and the batch's target, as labels (N,) in 0..classes-1. A new probe is made for each
    time. On several processes each one sees its share of the batches, at least one of each kind.
    """

    def fit(self, tokens: Sequence[Tensor], target: Tensor) -> None:
        """Add a batch of the images that the probe may be fitted to."""

    def fitted(self, processes: Processes) -> None:
        """Join what was added with the other processes' sums, after the last batch to fit."""

    def judge(self, tokens: Sequence[Tensor], target: Tensor) -> None:
        """Add a batch of held-out images."""

    def numbers(self, processes: Processes) -> dict[str, Tensor]:
        """Return {name: numbers of each block, (depth, ...)}, over the images of all processes."""


MakeProbe = Callable[[int], Probe]
PROBES: tuple[MakeProbe, ...] = (LinearAccuracy, EffectiveRank, BlockSimilarity)


def run_probes(
    extractor: TokenExtractor,
    fit: Iterable[Batch],
    held_out: Iterable[Batch],
    times: Sequence[float],
    make: Callable[[], Sequence[Probe]],
    processes: Processes | None = None,
) -> dict[str, Tensor]:
    """Return the numbers of all probes by name, (len(times), depth, ...) each.

    Batches are read once, for all times; nothing of them is kept but what the probes keep.

    Args:
        fit, held_out: this process's share of the batches.
        make: makes the probes of one time.
        processes: those that share the work, which is then a collective; alone unless given.
    """
    processes = processes or Alone()
    rows = [make() for _ in times]
    for k, tokens, batch in extractor.each(fit, times):
        for probe in rows[k]:
            probe.fit(tokens, batch.target)
    for probe in (probe for row in rows for probe in row):
        probe.fitted(processes)
    for k, tokens, batch in extractor.each(held_out, times):
        for probe in rows[k]:
            probe.judge(tokens, batch.target)
    numbers = [
        {name: value for probe in row for name, value in probe.numbers(processes).items()}
        for row in rows
    ]
    return {name: torch.stack([row[name] for row in numbers]).cpu() for name in numbers[0]}


@dataclass(frozen=True)
class BlockReport:
    """The numbers that `probe_blocks` gives, float64 on the CPU.

    Args:
        times: K times.
        classes: number of classes that the probe tells apart.
        correct: (K, depth, N), 1 where a held-out image's class was guessed, else 0.
        effective_rank: (K, depth), of the tokens of the images that the probe was fitted to.
        similarity: (K, depth, depth), of the same tokens.
        more: numbers of further probes by name, (K, depth, ...) each.
    """

    times: tuple[float, ...]
    classes: int
    correct: Tensor
    effective_rank: Tensor
    similarity: Tensor
    more: dict[str, Tensor] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return self.correct.shape[1]

    @property
    def accuracy(self) -> Tensor:
        """Return the accuracy (K, depth), in [0, 1]; 1 / classes is chance."""
        return self.correct.mean(dim=-1)


@torch.no_grad()
def probe_blocks(
    model,
    blocks: Sequence[nn.Module],
    fit: Sequence[Batch],
    held_out: Sequence[Batch],
    *,
    classes: int,
    path,
    times: Sequence[float] = TIMES,
    progress: bool = False,
    probes: Sequence[MakeProbe] = PROBES,
) -> BlockReport:
    """Run probes on the tokens of every block at each of `times`, one time after the other.

    Args:
        model, blocks, path: as in `TokenExtractor`.
        fit, held_out: batches, with labels in 0..classes-1 as target; probes are fitted to the
            first and judged on the second.
        progress: show a bar.
        probes: the classes of the probes; those of `PROBES`, and any more.

    The largest sums are 2 depth D^2 float64 numbers, and the tokens of all blocks for one batch.
    Raises `ValueError` if the model has no null label.
    """
    passes = len(times) * (len(fit) + len(held_out))
    bar = Progress("blocks", passes, "batch", shown=progress)

    def shown(batches: Iterable[Batch]):
        for batch in batches:
            yield batch
            bar.update()

    def make() -> list[Probe]:
        return [one(classes) for one in probes]

    extractor = TokenExtractor(model, blocks, path)
    with bar:
        rows = [run_probes(extractor, shown(fit), shown(held_out), [t], make) for t in times]
    columns = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    return BlockReport(tuple(times), classes, **standard(columns))


def standard(columns: dict[str, Tensor]) -> dict:
    """Return the numbers of `PROBES` under their names, those of other probes under `more`."""
    known = {name: columns.pop(name) for name in ("correct", "effective_rank", "similarity")}
    return known | {"more": columns}
