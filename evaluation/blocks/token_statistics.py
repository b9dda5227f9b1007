"""Statistics of tokens z (N, T, D) that need no labels: effective rank, similarity of blocks.

effective rank   exp(H(p)), p the shares of the centred tokens' singular values, H their entropy
                 (Roy & Vetterli, EUSIPCO 2007)
similarity       mean cosine of the tokens of two blocks at the same place
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.moments import Moments
from runtime.processes import Processes

CHUNK = 2**23  # float64 numbers in the working memory of a similarity, 64 MB


class EffectiveRank:
    """A `Probe`: effective rank of each block's tokens, over images and positions."""

    def __init__(self, classes: int):
        self.moments: list[Moments] = []

    def fit(self, tokens: Sequence[Tensor], target: Tensor) -> None:
        if not self.moments:
            self.moments = [Moments(z.shape[-1], z.device) for z in tokens]
        for moments, z in zip(self.moments, tokens, strict=True):
            moments.add(z.flatten(0, 1))

    def fitted(self, processes: Processes) -> None:
        for moments in self.moments:
            moments.join(processes)

    def judge(self, tokens: Sequence[Tensor], target: Tensor) -> None:
        """Do nothing: this probe does not look at held-out images."""

    def numbers(self, processes: Processes) -> dict[str, Tensor]:
        """Return {"effective_rank": (depth,)}."""
        ranks = [effective_rank(moments.squares) for moments in self.moments]
        return {"effective_rank": torch.tensor(ranks, dtype=torch.float64)}


class BlockSimilarity:
    """A `Probe`: mean cosine of the tokens of every two blocks."""

    def __init__(self, classes: int):
        self.total = torch.zeros(())
        self.count = 0

    def fit(self, tokens: Sequence[Tensor], target: Tensor) -> None:
        self.total = self.total + len(target) * block_similarity(tokens)
        self.count += len(target)

    def fitted(self, processes: Processes) -> None:
        self.total = processes.sum(self.total)
        self.count = int(processes.sum(torch.tensor(self.count)))

    def judge(self, tokens: Sequence[Tensor], target: Tensor) -> None:
        """Do nothing: this probe does not look at held-out images."""

    def numbers(self, processes: Processes) -> dict[str, Tensor]:
        """Return {"similarity": (depth, depth)}."""
        return {"similarity": self.total / self.count}


def effective_rank(covariance: Tensor) -> float:
    """Return the effective rank of centred features with this covariance (D, D).

    It goes from 1 (one direction) to D (the same variance in all directions).

    The singular values of the features are the roots of the covariance's eigenvalues, up to a
    factor. Features that do not vary at all have 0; NaN if the covariance is not finite.
    """
    if not covariance.isfinite().all():
        return math.nan
    singular = torch.linalg.eigvalsh(covariance.double()).clamp(min=0).sqrt()
    total = singular.sum()
    return torch.special.entr(singular / total).sum().exp().item() if total > 0 else 0.0


def block_similarity(tokens: Sequence[Tensor]) -> Tensor:
    """Return the mean cosine over samples and tokens of every two blocks, (depth, depth), float64.

    Args:
        tokens: (N, T, D) of each block.
    """
    depth, (samples, count, width) = len(tokens), tokens[0].shape
    total = torch.zeros(depth, depth, dtype=torch.float64, device=tokens[0].device)
    at_once = max(1, CHUNK // (depth * count * width))
    for part in zip(*(block.split(at_once) for block in tokens), strict=True):
        unit = F.normalize(torch.stack(part).double(), dim=-1).flatten(1)  # (depth, n * T * D)
        total += unit @ unit.T
    return total / (samples * count)
