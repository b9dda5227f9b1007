"""Extraction of features in one pass over the images, shared by any number of processes.

Mean and covariance of every feature are summed up during the pass. Features of single images are
kept only where a metric needs them, as float32: 50,000 pool features are 0.4 GB, on the CPU.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evaluation.moments import Moments
from runtime.processes import Processes, exact_float32


@dataclass
class Features:
    """Features of a set of images, on the first process: {feature: ...}."""

    moments: dict[str, Moments]
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    """(N, D) float32, in file order"""

    def statistics(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self.moments[name].statistics()


class Extractor(Protocol):
    """A network: uint8 images (N, 3, H, W) to {feature: (N, D)}."""

    sizes: dict[str, int]
    """D of each feature"""

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...


class FeaturePass:
    """One process's pass: runs the extractors on its images and keeps the results.

    Args:
        extractors: modules uint8 images (N, 3, H, W) -> {feature: (N, D)}, with `sizes`.
        summed: features of which mean and covariance are wanted.
        kept: features that are wanted image by image.
    """

    def __init__(
        self,
        extractors: Sequence[Extractor],
        summed: set[str],
        kept: set[str],
        device: torch.device,
    ):
        self.extractors, self.kept, self.device = extractors, kept, device
        sizes = {name: size for module in extractors for name, size in module.sizes.items()}
        self.moments = {name: Moments(sizes[name], device) for name in sizes if name in summed}
        self.parts = {name: [torch.empty(0, sizes[name])] for name in sizes if name in kept}

    @torch.inference_mode()
    def add(self, images: np.ndarray | Tensor) -> None:
        """Add a batch of uint8 images (N, H, W, 3); N may be 0."""
        if not len(images):
            return
        images = torch.as_tensor(np.array(images) if isinstance(images, np.ndarray) else images)
        images = images.to(self.device).permute(0, 3, 1, 2)
        with exact_float32():
            for extractor in self.extractors:
                for name, features in extractor(images).items():
                    self._take(name, features)

    def _take(self, name: str, features: Tensor) -> None:
        if not features.isfinite().all():
            raise ValueError(f"{name} features hold NaN or inf: the network's weights are broken")
        if name in self.moments:
            self.moments[name].add(features)
        if name in self.parts:
            self.parts[name].append(features.float().cpu())

    def join(self, processes: Processes) -> Features | None:
        """Return all processes' features on the first one, None on the others; a collective."""
        kept = {name: processes.collect(torch.cat(parts)) for name, parts in self.parts.items()}
        joined = {name: join_moments(own, processes) for name, own in self.moments.items()}
        if not processes.first:
            return None
        return Features(joined, {name: torch.cat(parts).numpy() for name, parts in kept.items()})


def join_moments(own: Moments, processes: Processes) -> Moments:
    counts = processes.collect(torch.tensor([own.count]))
    means, squares = processes.collect(own.mean), processes.collect(own.squares)
    for rank in range(1, len(counts)):
        other = Moments(0)
        other.count, other.mean, other.squares = int(counts[rank]), means[rank], squares[rank]
        own.merge(other)
    return own


def extract(
    extractors: Sequence[Extractor],
    batches: Iterable[np.ndarray | Tensor],
    summed: set[str],
    kept: set[str],
    device: torch.device,
    processes: Processes,
) -> Features | None:
    """Pass over every process's batches with the extractors that are needed; a collective."""
    needed = [module for module in extractors if (summed | kept) & set(module.sizes)]
    features = FeaturePass(needed, summed, kept, device)
    for batch in batches:
        features.add(batch)
    return features.join(processes)
