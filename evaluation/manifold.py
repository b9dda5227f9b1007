"""Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991).

Each set is covered by balls that reach from a sample to its k-th nearest neighbour. Precision is
the share of generated samples in a ball of the reference, recall the reverse.
"""

import numpy as np
import torch
from torch import Tensor

ROWS = 2048  # rows of the distance matrix that are in memory at a time


def precision_recall(
    reference: np.ndarray, generated: np.ndarray, k: int = 3
) -> tuple[float, float]:
    """(precision, recall) of feature arrays (N, D) and (M, D), in float32.

    Args:
        k: neighbours that a ball reaches over, the sample itself not counted.

    Raises `ValueError` when a set has fewer than k + 1 samples.
    """
    a, b = (torch.as_tensor(np.asarray(f, dtype=np.float32)) for f in (reference, generated))
    for name, features in (("reference", a), ("generated", b)):
        if len(features) < k + 1:
            raise ValueError(f"{name}: {len(features)} samples, k = {k} needs at least {k + 1}")
    return coverage(a, radii(a, k), b), coverage(b, radii(b, k), a)


def radii(features: Tensor, k: int) -> Tensor:
    """Squared distance of each sample to its k-th nearest neighbour, (N,)."""
    # the smallest of the k + 1 smallest distances is that to itself
    rows = [squared_distances(part, features) for part in features.split(ROWS)]
    return torch.cat([row.kthvalue(k + 1, dim=1).values for row in rows])


def coverage(centers: Tensor, radii: Tensor, points: Tensor) -> float:
    """Share of `points` inside at least one ball."""
    inside = [(squared_distances(part, centers) <= radii).any(dim=1) for part in points.split(ROWS)]
    return torch.cat(inside).double().mean().item()


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    products = a @ b.T
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * products).clamp(min=0)
