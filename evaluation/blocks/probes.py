"""Probes of the blocks of a network: the tokens of every block at several times -> named numbers.

Each block gives tokens z (N, T, D) at time t of x_t = alpha_t x_1 + sigma_t x_0. The standard
probes measure how well a linear classifier predicts the class from them
(evaluation/blocks/linear_probe.py), their effective rank and the similarity of blocks
(evaluation/blocks/token_statistics.py). A new probe is a class with the methods of `Probe`.

The network gets the null label, so that the tokens know the class from the image alone: given the
label, a probe would only read it back. The network is not changed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from evaluation.blocks.linear_probe import LinearAccuracy
from evaluation.blocks.token_statistics import BlockSimilarity, EffectiveRank
from layersync.capture import BlockRecorder
from layersync.outputs import TokenReader
from runtime.progress import Progress

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # the middles of fifths of [0, 1]: their mean is one over t

Batch = tuple[Tensor, Tensor, Tensor]


class Probe(Protocol):
    """A measurement of the tokens of every block of a network at one time of the path.

    Batches to fit come first, then held-out ones: the tokens of each block in order, (N, T, D)
    float32, and the images' labels (N,) in 0..classes-1. A new probe is made for each time, with
    the number of classes.
    """

    def fit(self, tokens: Sequence[Tensor], labels: Tensor) -> None:
        """Add a batch of the images that the probe may be fitted to."""

    def judge(self, tokens: Sequence[Tensor], labels: Tensor) -> None:
        """Add a batch of held-out images."""

    def numbers(self) -> dict[str, Tensor]:
        """Return {name: numbers of each block, (depth, ...)}."""


MakeProbe = Callable[[int], Probe]
PROBES: tuple[MakeProbe, ...] = (LinearAccuracy, EffectiveRank, BlockSimilarity)


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
    """Run probes on the tokens of every block at each of `times`.

    Args:
        model: called as model(x_t, t, y), with a `null_label`; a SiT in eval mode.
        blocks: the modules whose outputs are probed, as in `model.blocks`.
        fit, held_out: batches (x_1 (N, ...), noise x_0 like it, labels (N,) in 0..classes-1), on
            any device; probes are fitted to the first and judged on the second.
        path: the interpolant, `transport.path`.
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

    at = [BlocksAt(model, blocks, path, t) for t in times]
    with bar:
        rows = [
            one.look([make(classes) for make in probes], shown(fit), shown(held_out)) for one in at
        ]
    columns = {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}
    return BlockReport(tuple(times), classes, **standard(columns))


def standard(columns: dict[str, Tensor]) -> dict:
    """Return the numbers of `PROBES` under their names, those of other probes under `more`."""
    known = {name: columns.pop(name) for name in ("correct", "effective_rank", "similarity")}
    return known | {"more": columns}


class BlocksAt:
    """The blocks of a network at one time of the path."""

    def __init__(self, model, blocks: Sequence[nn.Module], path, time: float):
        self.model, self.path, self.time = model, path, time
        self.null_label = model.null_label
        self.recorder = BlockRecorder(dict(enumerate(blocks)))
        self.device = next(blocks[0].parameters()).device

    def look(
        self, probes: Sequence[Probe], fit: Iterable[Batch], held_out: Iterable[Batch]
    ) -> dict[str, Tensor]:
        """Return the numbers of all probes, fitted to `fit` and judged on `held_out`."""
        for batch in fit:
            tokens, labels = self.tokens(batch)
            for probe in probes:
                probe.fit(tokens, labels)
        for batch in held_out:
            tokens, labels = self.tokens(batch)
            for probe in probes:
                probe.judge(tokens, labels)
        return {name: value for probe in probes for name, value in probe.numbers().items()}

    def tokens(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Return the tokens (N, T, D) of every block, without a label given, and labels (N,)."""
        x_1, x_0, labels = (tensor.to(self.device) for tensor in batch)
        t = torch.full((len(x_1),), self.time, device=self.device)
        with self.recorder.recording():
            self.model(self.path.x_t(t, x_0, x_1), t, torch.full_like(labels, self.null_label))
        outputs, read = self.recorder.take(), TokenReader().tokens
        return [read(outputs[k][0]).float() for k in range(len(outputs))], labels
