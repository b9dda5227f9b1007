"""Linear probes: how well a linear classifier predicts an image's class from a block's tokens.

The classifier sees the mean of the tokens z (N, T, D) of a block, and is judged on images that it
was not fitted to (Alain & Bengio, arXiv 1610.01644). Sums are float64, and their size depends on D,
not on the number of images.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.moments import Moments
from runtime.processes import Processes

TOP = (1, 5)  # guesses
RIDGES = torch.logspace(-4, 2, 25, dtype=torch.float64)  # tried, times the number of samples


class RidgeClassifiers:
    """The part of a `Probe` that fits a `RidgeProbe` to the tokens' mean of each block."""

    def __init__(self, classes: int):
        self.classes = classes
        self.probes: list[RidgeProbe] = []
        self.classifiers: list[tuple[Tensor, Tensor]] = []

    def fit(self, tokens: Sequence[Tensor], target: Tensor) -> None:
        if not self.probes:
            self.probes = [RidgeProbe(z.shape[-1], self.classes, z.device) for z in tokens]
        for probe, z in zip(self.probes, tokens, strict=True):
            probe.add(z.mean(dim=1), target)

    def fitted(self, processes: Processes) -> None:
        for probe in self.probes:
            probe.join(processes)
        self.classifiers = [probe.fit() for probe in self.probes]
        self.probes = []  # the sums are large, and of no more use

    def ranks(self, tokens: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return each block's `class_ranks` of some images, (depth, N)."""
        pairs = zip(self.classifiers, tokens, strict=True)
        return torch.stack([class_ranks(scores(c, z.mean(dim=1)), labels) for c, z in pairs])


class LinearAccuracy(RidgeClassifiers):
    """A `Probe`: for each block and held-out image, whether a `RidgeProbe` guesses its class."""

    def __init__(self, classes: int):
        super().__init__(classes)
        self.correct: list[Tensor] = []

    def judge(self, tokens: Sequence[Tensor], target: Tensor) -> None:
        self.correct.append(among_first(self.ranks(tokens, target), 1))

    def numbers(self, processes: Processes) -> dict[str, Tensor]:
        """Return {"correct": (depth, N)}, 1 where a held-out image's class was guessed, else 0."""
        own = torch.cat(self.correct, dim=1)
        return {"correct": torch.cat(processes.everyones(own), dim=1)}


class TopAccuracy(RidgeClassifiers):
    """A `Probe`: each block's accuracy on held-out images by a `RidgeProbe`; keeps counts only."""

    def __init__(self, classes: int):
        super().__init__(classes)
        self.hits = TopHits()

    def judge(self, tokens: Sequence[Tensor], target: Tensor) -> None:
        self.hits.add(self.ranks(tokens, target))

    def numbers(self, processes: Processes) -> dict[str, Tensor]:
        """Return {"top1": (depth,), "top5": (depth,)}, in [0, 1]."""
        return self.hits.numbers(processes)


class TopHits:
    """Counts of images whose class is guessed, and is among five guesses, for each block."""

    def __init__(self):
        self.counts = torch.zeros(())  # (2, depth) after the first batch
        self.images = 0

    def add(self, ranks: Tensor) -> None:
        """Add the `class_ranks` of some images, (depth, N)."""
        hits = torch.stack([among_first(ranks, k).sum(dim=1) for k in TOP])
        self.counts = self.counts + hits
        self.images += ranks.shape[1]

    def numbers(self, processes: Processes) -> dict[str, Tensor]:
        """Return {"top1": (depth,), "top5": (depth,)}, over the images of all processes."""
        images = processes.sum(torch.tensor(self.images, device=self.counts.device))
        shares = processes.sum(self.counts) / images
        return {f"top{k}": share for k, share in zip(TOP, shares, strict=True)}


class RidgeProbe:
    """A linear classifier: least squares on one-hot labels, in closed form.

    Features are standardised. The ridge is the one of `RIDGES` with the least generalised
    cross-validation error (Golub, Heath & Wahba, 1979), so there is nothing to tune and nothing
    random. Only sums are kept: D^2 + K D numbers.

    Args:
        dimensions: D.
        classes: K.
        device: where the sums are kept.
    """

    def __init__(self, dimensions: int, classes: int, device: torch.device | str = "cpu"):
        self.moments = Moments(dimensions, device)
        self.sums = torch.zeros(classes, dimensions, dtype=torch.float64, device=device)
        self.counts = torch.zeros(classes, dtype=torch.float64, device=device)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch (N, D) with labels (N,) in 0..K-1."""
        self.moments.add(features)
        # a product, because index_add_ adds in any order on a GPU
        chosen = F.one_hot(labels, len(self.counts)).to(self.sums)  # (N, K)
        self.sums += chosen.T @ features.to(self.sums)
        self.counts += chosen.sum(dim=0)

    def join(self, processes: Processes) -> None:
        """Add what every other process has added; a collective."""
        self.moments.join(processes)
        self.sums, self.counts = processes.sum(self.sums), processes.sum(self.counts)

    def fit(self) -> tuple[Tensor, Tensor]:
        """Return weights (D, K) and offsets (K,) of the classifier, NaN if features are not finite.

        The guessed class of x is the largest of x @ weights + offsets.
        """
        count, mean = self.moments.count, self.moments.mean
        scale = (self.moments.squares.diag() / count).sqrt()
        scale = torch.where(scale > 0, scale, 1)  # a constant feature tells nothing, and stays 0
        gram = self.moments.squares / scale / scale[:, None]
        cross = (self.sums - self.counts[:, None] * mean).T / scale[:, None]  # (D, K)
        if not gram.isfinite().all():
            return torch.full_like(cross, math.nan), torch.full_like(self.counts, math.nan)
        values, vectors = torch.linalg.eigh(gram)
        values, cross = values.clamp(min=0), vectors.T @ cross
        total = count - self.counts.square().sum() / count  # of the centred labels' squares
        ridge = best_ridge(values, cross.square().sum(dim=1), total, count)
        weights = vectors @ (cross / (values + ridge)[:, None]) / scale[:, None]
        return weights, self.counts / count - mean @ weights


def best_ridge(values: Tensor, power: Tensor, total: Tensor, count: int) -> Tensor:
    """Return the ridge, of `RIDGES` times `count`, with the least cross-validation error (GCV).

    Args:
        values: (D,), eigenvalues of X'X.
        power: (D,), the squares of U'X'Y summed over classes, U the eigenvectors.
        total: the sum of the squares of Y.
        count: rows of X and Y, both centred.
    """
    ridges = RIDGES.to(values.device)[:, None] * count
    freedom = 1 + (values / (values + ridges)).sum(dim=1)  # 1: the offset
    explained = power * (values + 2 * ridges) / (values + ridges) ** 2
    error = (total - explained.sum(dim=1)).clamp(min=0) / (1 - freedom / count) ** 2
    return ridges[error.argmin(), 0]


def linear_probe(
    features: Tensor, labels: Tensor, held_out_features: Tensor, held_out_labels: Tensor
) -> float:
    """Return the accuracy in [0, 1] on held-out features (M, D) of a probe fitted to (N, D)."""
    classes = 1 + int(max(labels.max(), held_out_labels.max()))
    probe = RidgeProbe(features.shape[1], classes, features.device)
    probe.add(features, labels)
    ranks = class_ranks(scores(probe.fit(), held_out_features), held_out_labels)
    return among_first(ranks, 1).mean().item()


def scores(classifier: tuple[Tensor, Tensor], features: Tensor) -> Tensor:
    """Return the scores (N, K) of the classes of features (N, D), float64."""
    weights, offsets = classifier
    return features.to(weights) @ weights + offsets


def class_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes score higher than an image's own, (..., N), float64.

    Of classes with the same score, those of lower numbers come first, as in `argmax`. NaN where a
    score is not finite.

    Args:
        scores: (..., N, K).
        labels: (N,), the images' classes.
    """
    own = scores.gather(-1, labels.expand(scores.shape[:-1])[..., None])
    before = torch.arange(scores.shape[-1], device=scores.device) < labels[:, None]
    ranks = ((scores > own) | ((scores == own) & before)).sum(dim=-1).double()
    return torch.where(scores.isfinite().all(dim=-1), ranks, math.nan)


def among_first(ranks: Tensor, count: int) -> Tensor:
    """Return 1 where a rank is below `count`, else 0, float64; NaN where it is NaN."""
    return torch.where(ranks.isnan(), math.nan, (ranks < count).double())
