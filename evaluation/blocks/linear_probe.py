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

RIDGES = torch.logspace(-4, 2, 25, dtype=torch.float64)  # tried, times the number of samples


class LinearAccuracy:
    """A `Probe`: for each block and held-out image, whether a `RidgeProbe` guesses its class."""

    def __init__(self, classes: int):
        self.classes = classes
        self.probes: list[RidgeProbe] = []
        self.classifiers: list[tuple[Tensor, Tensor]] = []
        self.correct: list[Tensor] = []

    def fit(self, tokens: Sequence[Tensor], labels: Tensor) -> None:
        if not self.probes:
            self.probes = [RidgeProbe(z.shape[-1], self.classes, z.device) for z in tokens]
        for probe, z in zip(self.probes, tokens, strict=True):
            probe.add(z.mean(dim=1), labels)

    def judge(self, tokens: Sequence[Tensor], labels: Tensor) -> None:
        if not self.classifiers:
            self.classifiers = [probe.fit() for probe in self.probes]
        pairs = zip(self.classifiers, tokens, strict=True)
        self.correct.append(
            torch.stack([right_guesses(c, z.mean(dim=1), labels) for c, z in pairs])
        )

    def numbers(self) -> dict[str, Tensor]:
        """Return {"correct": (depth, N)}, 1 where a held-out image's class was guessed, else 0."""
        return {"correct": torch.cat(self.correct, dim=1)}


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
    return right_guesses(probe.fit(), held_out_features, held_out_labels).mean().item()


def right_guesses(classifier: tuple[Tensor, Tensor], features: Tensor, labels: Tensor) -> Tensor:
    """Return 1 where a classifier guesses right, else 0, (N,) float64; NaN if it holds NaN."""
    weights, offsets = classifier
    scores = features.to(weights) @ weights + offsets  # (N, K)
    right = (scores.argmax(dim=1) == labels).double()
    return torch.where(scores.isfinite().all(dim=1), right, math.nan)
