"""Mean and covariance of a stream of features, in float64.

Two sets with means m, sums of squares M (centred) and counts n join as

    M = M_a + M_b + d d' n_a n_b / n,    d = m_b - m_a        (Chan, Golub and LeVeque, 1979)

so batches and processes of any size give the same statistics up to float64 rounding.
"""

import numpy as np
import torch
from torch import Tensor

from runtime.processes import Processes


class Moments:
    """Count, mean and centred sum of squares of everything added so far.

    Args:
        dimensions: D.
        device: where the sums are kept.
    """

    def __init__(self, dimensions: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64, device=device)
        self.squares = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)

    def add(self, features: Tensor) -> None:
        """Add a batch (N, D)."""
        features = features.to(self.mean)
        mean = features.mean(dim=0)
        self._shift(len(features), mean)
        centred = features - mean
        self.squares.addmm_(centred.T, centred)

    def merge(self, other: "Moments") -> None:
        self._shift(other.count, other.mean.to(self.mean))
        self.squares += other.squares.to(self.squares)

    def join(self, processes: Processes) -> None:
        """Add what every other process has added; a collective. Only D^2 numbers travel."""
        if processes.count == 1:
            return
        own = torch.tensor(float(self.count), dtype=torch.float64)
        total = processes.sum(own)
        mean = processes.sum(self.mean * self.count) / total.clamp(min=1).to(self.mean.device)
        away = self.mean - mean
        self.squares = processes.sum(self.squares.addr(away, away, alpha=self.count))
        self.count, self.mean = int(total), mean

    def _shift(self, count: int, mean: Tensor) -> None:
        """Add the count and the mean of a set; the caller adds its squares."""
        total, difference = self.count + count, mean - self.mean
        if not total:
            return
        self.squares.addr_(difference, difference, alpha=self.count * count / total)
        self.mean += difference * (count / total)
        self.count = total

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (D,) and covariance (D, D) with N - 1 in the denominator, N >= 2."""
        return self.mean.cpu().numpy(), (self.squares / (self.count - 1)).cpu().numpy()
