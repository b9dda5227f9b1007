"""Randomness as a function of what it is for: (seed, step, position), or (seed, image number).

A stream of draws belongs to one sample, not to a process, so what a training step or an image
draws does not depend on how many processes share the work, on the batch it lands in, on the device
or on what was drawn before: a resumed run is the same run.

Streams are NumPy's PCG64, seeded through its SeedSequence. torch's CPU generator would not do: it
keeps 32 bits of its seed, so that among 50,000 images two with the same noise are not unlikely.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

# The first word of every key: streams for different purposes never meet.
ORDER, STEP, IMAGE, PREVIEW, HELD_OUT, LABELS, PROBE, HEADS, VIEWS = range(9)


class Streams:
    """One stream per sample of a batch. Draws follow each other, so their order is part of a run.

    Args:
        keys: one tuple of non-negative integers per sample.
        device: where drawn tensors go.
    """

    def __init__(self, keys: Iterable[tuple[int, ...]], device: torch.device | str = "cpu"):
        self.generators = [np.random.default_rng(key) for key in keys]
        self.device = device

    def normal(self, shape: Iterable[int]) -> Tensor:
        """Standard-normal draws (N, *shape), float32."""
        shape = tuple(shape)
        return self._stack([g.standard_normal(shape, np.float32) for g in self.generators])

    def uniform(self) -> Tensor:
        """U[0, 1) draws (N,), float32."""
        return self._stack([g.random(1, np.float32)[0] for g in self.generators])

    def integers(self, high: int) -> Tensor:
        """Integers 0..high-1, (N,), int64."""
        return self._stack([g.integers(high) for g in self.generators])

    def _stack(self, draws: list) -> Tensor:
        return torch.from_numpy(np.stack(draws)).to(self.device)


def step_streams(seed: int, step: int, positions: Iterable[int], device="cpu") -> Streams:
    """Streams of a training step, one for each of these positions in the global batch."""
    return Streams([(STEP, seed, step, position) for position in positions], device)


def image_streams(seed: int, images: Iterable[int], device="cpu", purpose: int = IMAGE) -> Streams:
    """Streams of a sampling run, one for each image number."""
    return Streams([(purpose, seed, image) for image in images], device)


def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order in which an epoch visits the data: a permutation of 0..length-1."""
    return np.random.default_rng((ORDER, seed, epoch)).permutation(length)
