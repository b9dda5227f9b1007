"""Chosen images of a source as batches that a network is probed with, read as they are needed.

Image i has the same x_1 and the same noise each time, on any number of processes, from images or
from cached latents of them: both are functions of (seed, i). A `View` says otherwise, for heads
that are trained on changing views of the images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.loader import make_loader
from data.source_protocol import IndexedSource
from evaluation.blocks.tokens import Batch
from runtime.randomness import PROBE, VIEWS, Streams, image_streams

MakeTarget = Callable[[Sequence[int], Tensor], Tensor]
"""(numbers of the images, items as the source gives them (N, ...)) -> target (N, ...)"""
CROP = 8  # a random crop moves an image by up to a CROP-th of its side


@dataclass(frozen=True)
class View:
    """Views of images in an epoch: each mirrored or not, and moved by a random crop."""

    epoch: int
    flip: bool = True
    crop: bool = True


class Examples:
    """The images of a source, as one network sees them.

    Args:
        source: where images and labels are read.
        encode: (items, mirrored, draws) -> x_1, as in the training step.
        seed: latents and noise are functions of it.
        device: where images are encoded.
        batch_size: images at a time.
        num_workers: processes that read them, 0 for none.
    """

    def __init__(
        self,
        source: IndexedSource,
        encode: Callable[[Tensor, Tensor, Streams], Tensor],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        num_workers: int = 0,
    ):
        self.source, self.encode, self.seed = source, encode, seed
        self.device, self.batch_size, self.num_workers = device, batch_size, num_workers

    def batches(
        self, numbers: Sequence[int], target: MakeTarget, view: View | None = None
    ) -> Iterator[Batch]:
        """Yield batches of these images, in order, on the device."""
        size = self.batch_size
        yield from self.groups([numbers[i : i + size] for i in range(0, len(numbers), size)],
                               target, view)  # fmt: skip

    def groups(
        self, groups: Sequence[Sequence[int]], target: MakeTarget, view: View | None = None
    ) -> Iterator[Batch]:
        """Yield a batch for each list of image numbers."""
        plain = [[int(i) for i in group] for group in groups]
        workers = min(self.num_workers, len(plain))
        loader = make_loader(self.source, plain, workers)
        for group, (items, labels) in zip(plain, loader, strict=True):
            yield self.batch(group, items, labels, target, view)

    def batch(
        self,
        numbers: list[int],
        items: Tensor,
        labels: Tensor,
        target: MakeTarget,
        view: View | None = None,
    ) -> Batch:
        """Make the batch of these images (items (N, *source.shape), labels (N,))."""
        items = items.to(self.device)
        mirrored = torch.zeros(len(items), dtype=torch.bool, device=self.device)
        draws = image_streams(self.seed, numbers, self.device, PROBE)
        if view is not None:
            keys = [(VIEWS, self.seed, number, view.epoch) for number in numbers]
            draws = Streams(keys, self.device)
            mirrored = (draws.uniform() < 0.5) & view.flip
            if view.crop:
                items = random_crop(items, draws)
        x_1 = self.encode(items, mirrored, draws)
        x_0 = draws.normal(x_1.shape[1:])
        return Batch(x_1, x_0, target(numbers, items), torch.as_tensor(labels).long())


def random_crop(images: Tensor, draws: Streams) -> Tensor:
    """Move uint8 images (N, C, H, W) by up to a CROP-th of their side, black where they end."""
    side = images.shape[-1]
    margin = max(1, side // CROP)
    wide = F.pad(images, [margin] * 4)
    tops, lefts = (draws.integers(2 * margin + 1).tolist() for _ in range(2))
    return torch.stack(
        [
            image[:, top : top + side, left : left + side]
            for image, top, left in zip(wide, tops, lefts, strict=True)
        ]
    )


def label_target(labels: Tensor) -> MakeTarget:
    """Return the target of a classifier: labels (N,) of all images of the source, by number."""

    def target(numbers: Sequence[int], items: Tensor) -> Tensor:
        return labels[torch.as_tensor(list(numbers))]

    return target
