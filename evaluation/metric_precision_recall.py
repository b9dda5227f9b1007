"""Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991).

Each set is covered by balls that reach from a sample to its k-th nearest neighbour. Precision is
the share of generated samples in a ball of the reference, recall the reverse.
"""

import numpy as np
import torch
from torch import Tensor

from runtime.processes import exact_float32
from runtime.progress import Progress

BLOCK = 2**23  # distances in memory at a time: 32 MB, and three times that while they form
DTYPES = {"float16": torch.float16, "float32": torch.float32}


def precision_recall(
    reference: np.ndarray,
    generated: np.ndarray,
    k: int = 3,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> tuple[float, float]:
    """Return (precision, recall) of feature arrays (N, D) and (M, D).

    Args:
        k: number of the neighbour that a ball reaches to, the sample itself not counted.
        dtype: arithmetic of the distances, "float32" or ADM's "float16".

    Raises `ValueError` when a set has fewer than k + 1 samples or a value that is not finite.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: choose from {', '.join(DTYPES)}")
    if k < 1:
        raise ValueError(f"k {k}: the number of a neighbour, at least 1")
    for name, features in (("reference", reference), ("generated", generated)):
        if len(features) < k + 1:
            raise ValueError(f"{name}: {len(features)} samples, k = {k} needs at least {k + 1}")
        if not np.isfinite(features).all():
            raise ValueError(f"{name}: features hold values that are not finite")
    a, b = (Points(features, DTYPES[dtype], device) for features in (reference, generated))
    with (
        Progress("neighbours", 2 * len(a) + len(b), "image", shown=progress) as bar,
        exact_float32(),
    ):
        radii_a, radii_b = radii(a, k, bar), radii(b, k, bar)
        in_a = torch.zeros(len(b), dtype=torch.bool, device=device)
        in_b = torch.zeros(len(a), dtype=torch.bool, device=device)
        for rows, distances in a.distances(b, bar):
            in_b[rows] = (distances <= radii_b).any(dim=1)
            in_a |= (distances <= radii_a[rows, None]).any(dim=0)
    return in_a.double().mean().item(), in_b.double().mean().item()


class Points:
    """Features (N, D), prepared for squared distances in a given arithmetic.

    In float16 the arithmetic is ADM's: features, their squares, norms and products are rounded to
    float16, and so is each step of |a|^2 - 2 ab + |b|^2; sums over D are taken in float32.
    """

    def __init__(self, features: np.ndarray, dtype: torch.dtype, device: torch.device | str):
        self.exact = torch.as_tensor(np.asarray(features, dtype=np.float32), device=device)
        self.dtype, self.rounded = dtype, self.exact
        if dtype != torch.float32:
            self.rounded = self.exact.clone()
            for part in self.rounded.split(4096):
                part.copy_(part.to(dtype))
        squares = [part.to(dtype).square().float().sum(1) for part in self.rounded.split(4096)]
        self.norms = torch.cat(squares).to(dtype)

    def __len__(self) -> int:
        return len(self.exact)

    def distances(self, other: "Points", bar: Progress):
        """Yield a slice of rows, and their distances (rows, M) to all of `other`, float32."""
        step = max(1, BLOCK // len(other))
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            products = (self.rounded[rows] @ other.rounded.T).to(self.dtype)
            distances = products.mul_(-2).add_(self.norms[rows, None]).add_(other.norms)
            if not distances.isfinite().all():  # float16 ends at 65504: then float32, as in ADM
                a, b = self.exact[rows], other.exact
                distances = (a @ b.T).mul_(-2).add_(a.square().sum(1)[:, None])
                distances = distances.add_(b.square().sum(1))
            yield rows, distances.float().clamp_(min=0)
            bar.update(rows.stop - rows.start)


def radii(points: Points, k: int, bar: Progress) -> Tensor:
    """Return the squared distance of each point to its k-th nearest neighbour, (N,)."""
    squared = torch.empty(len(points), device=points.exact.device)
    for rows, distances in points.distances(points, bar):
        # the smallest of the k + 1 smallest distances is that to itself
        squared[rows] = distances.topk(k + 1, dim=1, largest=False).values[:, k]
    return squared
