"""Tokens of the blocks of a network: the one extractor that every probe is fed by.

    extractor = TokenExtractor(network, model.blocks, transport.path)
    for k, tokens, batch in extractor.each(batches, times=(0.5, 0.9)):
        tokens[3]                                  # of the fourth block at times[k], (N, T, D)

One forward pass at x_t = alpha_t x_1 + sigma_t x_0 gives the tokens of all blocks; the network is
not changed. It gets the null label, so that the tokens know the class from the image alone: given
the label, a probe would only read it back.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from layersync.capture import BlockRecorder
from layersync.outputs import TokenReader


class Batch(NamedTuple):
    """Some images as a network sees them, and what their tokens are compared with."""

    x_1: Tensor
    """(N, C, h, w)"""
    x_0: Tensor
    """noise like x_1, always the same for an image"""
    target: Tensor
    """by the probe: labels (N,), masks (N, H, W), features of another network (N, P, D)"""
    labels: Tensor | None = None
    """(N,), of the images, for a network that is to see them"""

    def to(self, device: torch.device) -> "Batch":
        labels = None if self.labels is None else self.labels.to(device)
        return Batch(self.x_1.to(device), self.x_0.to(device), self.target.to(device), labels)


class TokenExtractor:
    """Tokens of some blocks of a network at any time of the path, from one pass for all of them.

    Args:
        model: called as model(x_t, t, y), with a `null_label`; a SiT in eval mode.
        blocks: the modules whose outputs are wanted, as in `model.blocks`.
        path: the interpolant, `transport.path`.
        true_labels: give the network each image's own label instead of the null label.
        bf16: run it in bfloat16 autocast; tokens are float32 all the same.

    Raises `ValueError` if the model has no null label and needs one.
    """

    def __init__(
        self,
        model,
        blocks: Sequence[nn.Module],
        path,
        true_labels: bool = False,
        bf16: bool = False,
    ):
        self.model, self.blocks, self.path, self.bf16 = model, list(blocks), path, bf16
        self.null_label: int | None = None if true_labels else model.null_label
        self.recorder = BlockRecorder(dict(enumerate(blocks)))
        self.read = TokenReader().tokens
        self.device = next(blocks[0].parameters()).device

    def condition(self, batch: Batch) -> Tensor:
        """Return the labels (N,) that the network gets."""
        if self.null_label is None:
            assert batch.labels is not None  # batches of such an extractor carry them
            return batch.labels
        return torch.full((len(batch.x_1),), self.null_label, device=batch.x_1.device)

    def times(self, batch: Batch, time: float) -> Tensor:
        """Return `time` for each image, (N,)."""
        return torch.full((len(batch.x_1),), time, device=batch.x_1.device)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def tokens(self, batch: Batch, time: float) -> list[Tensor]:
        """Return the tokens (N, T, D), float32, of each block; the batch is on the device."""
        t = self.times(batch, time)
        with self.recorder.recording(), self.autocast():
            self.model(self.path.x_t(t, batch.x_0, batch.x_1), t, self.condition(batch))
        outputs = self.recorder.take()
        return [self.read(outputs[k][0]).float() for k in range(len(outputs))]

    def each(
        self, batches: Iterable[Batch], times: Sequence[float]
    ) -> Iterator[tuple[int, list[Tensor], Batch]]:
        """Yield (number of the time, tokens of every block, batch), all times of a batch in turn.

        Only one batch is held, at one time.
        """
        for batch in batches:
            here = Batch(*batch).to(self.device)
            for k, time in enumerate(times):
                yield k, self.tokens(here, time), here
