"""Linear classifiers trained as in the literature, one for each block and time.

    DDAE   a bare linear layer on the tokens' mean; Adam 1e-3, cosine, 30 epochs, batch 128,
           mirrored and cropped images                       (Xiang et al., arXiv 2303.09769)
    REPA   batch norm without parameters, then a linear layer; Adam 1e-3, cosine, 90 epochs,
           batch 16,384                                      (Yu et al., arXiv 2410.06940)

All classifiers of a seed start from the same weights, with a deviation of 0.01 as MAE's: what one
learns does not depend on which others are trained beside it.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.blocks.linear_probe import TopHits, class_ranks
from evaluation.blocks.trained_heads import HeadSettings
from runtime.processes import Processes
from runtime.randomness import HEADS

PRESETS = {
    "ddae": HeadSettings(epochs=30, batch=128, lr=1e-3, flip=True, crop=True),
    "repa": HeadSettings(epochs=90, batch=16_384, lr=1e-3, flip=True, crop=True),
}
NORMALISED = {"ddae": False, "repa": True}
START = 0.01
MOMENTUM, EPS = 0.1, 1e-6  # of the running statistics; MAE's eps, which REPA's probe has


class LinearHeads(nn.Module):
    """`Heads`: the tokens' mean, normalised or not, through a linear layer for each block and time.

    Args:
        sizes: times, blocks, D and classes.
        seed: of the weights that they start from.
        normalise: subtract the batch's mean and divide by its deviation; in judging, the running
            mean and deviation of training.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, sizes: tuple[int, int, int, int], normalise: bool, seed: int = 0):
        super().__init__()
        times, blocks, dimensions, classes = sizes
        self.normalise = normalise
        drawn = np.random.default_rng((HEADS, seed)).standard_normal((dimensions, classes))
        start = torch.from_numpy(START * drawn).float()
        self.weight = nn.Parameter(start.repeat(times, blocks, 1, 1))
        self.bias = nn.Parameter(torch.zeros(times, blocks, classes))
        self.register_buffer("mean", torch.zeros(times, blocks, dimensions))
        self.register_buffer("variance", torch.ones(times, blocks, dimensions))

    def reduce(self, tokens: Sequence[Tensor]) -> Tensor:
        """Return the tokens' means, (blocks, N, D)."""
        return torch.stack([z.mean(dim=1) for z in tokens])

    def losses(self, k: int, features: Tensor, target: Tensor, processes: Processes) -> Tensor:
        """Return the cross entropies (blocks,), see `Heads`; updates the running statistics."""
        count = processes.sum(torch.tensor(len(target), device=features.device))
        if self.normalise:
            features = self.normalised(k, features, count, processes)
        scores = self.scores(k, features)  # (blocks, N, K)
        each = F.cross_entropy(
            scores.flatten(0, 1), target.repeat(len(scores)), reduction="none"
        ).view(scores.shape[:2])
        return each.sum(dim=1) / count

    def normalised(self, k: int, features: Tensor, count: Tensor, processes: Processes) -> Tensor:
        mean = processes.sum(features.sum(dim=1)) / count  # (blocks, D)
        away = features - mean[:, None]
        variance = processes.sum(away.square().sum(dim=1)) / count
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.mean[k].lerp_(mean, MOMENTUM)
        self.variance[k].lerp_(unbiased, MOMENTUM)
        return away / (variance + EPS).sqrt()[:, None]

    def scores(self, k: int, features: Tensor) -> Tensor:
        """Return scores (blocks, N, K) of features (blocks, N, D), already normalised."""
        return torch.baddbmm(self.bias[k][:, None], features, self.weight[k])

    @torch.no_grad()
    def ranks(self, k: int, tokens: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the `class_ranks` (blocks, N) of held-out images by the heads at times[k]."""
        features = self.reduce(tokens)
        if self.normalise:
            deviation = (self.variance[k] + EPS).sqrt()
            features = (features - self.mean[k][:, None]) / deviation[:, None]
        return class_ranks(self.scores(k, features).double(), labels)


def judge_heads(heads: LinearHeads, tokens, times: int, processes: Processes) -> dict[str, Tensor]:
    """Return {"top1": (times, blocks), "top5": ...} of held-out images; a collective.

    Args:
        tokens: yields (number of the time, tokens of every block, batch).
    """
    hits = [TopHits() for _ in range(times)]
    for k, z, batch in tokens:
        hits[k].add(heads.ranks(k, z, batch.target))
    rows = [one.numbers(processes) for one in hits]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
