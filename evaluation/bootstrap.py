"""Bootstrap: how much FID and Inception Score would vary with other samples of the same model.

From the N samples, N are drawn with replacement, many times. A drawn set has repeated images, which
alone raises FID and lowers IS. So only the spread of the drawn values is used, around the value of
the real set:  value +- 1.96 standard deviations.
"""

from collections.abc import Callable

import numpy as np
import torch

from evaluation.metric_inception_score import inception_score
from runtime.progress import over

NORMAL_95 = 1.96
ROWS = 4096


def deviations(
    pool: np.ndarray,
    probs: np.ndarray,
    distance: Callable[[np.ndarray, np.ndarray], float],
    resamples: int,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, float]:
    """Return the standard deviation of {"fid", "inception_score"} over resamples.

    Args:
        pool: features of the samples (N, D).
        probs: their class probabilities (N, K).
        distance: FID of samples with this mean and covariance of `pool`.
        resamples: number of sets drawn, at least 2.
    """
    random = np.random.default_rng(seed)
    drawn_scores: dict[str, list[float]] = {"fid": [], "inception_score": []}
    for _ in over(range(resamples), "bootstrap", "resample"):
        chosen = random.integers(len(pool), size=len(pool))
        drawn = weighted_statistics(pool, np.bincount(chosen, minlength=len(pool)), device)
        drawn_scores["fid"].append(distance(*drawn))
        drawn_scores["inception_score"].append(inception_score(probs[chosen]))
    return {name: float(np.std(values, ddof=1)) for name, values in drawn_scores.items()}


def weighted_statistics(
    features: np.ndarray, counts: np.ndarray, device: torch.device | str
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of a set that holds row i of `features` counts[i] times."""
    images, total = torch.from_numpy(features), int(counts.sum())
    weights = torch.from_numpy(counts).to(device, torch.float64)
    shift = images[:ROWS].to(device, torch.float64).mean(dim=0)  # near the mean, for rounding
    first = torch.zeros_like(shift)
    second = torch.zeros(*shift.shape, *shift.shape, dtype=shift.dtype, device=device)
    for rows, weight in zip(images.split(ROWS), weights.split(ROWS), strict=True):
        centred = rows.to(device, torch.float64) - shift
        first += weight @ centred
        second.addmm_((weight[:, None] * centred).T, centred)
    mean = first / total
    covariance = (second - total * torch.outer(mean, mean)) / (total - 1)
    return (mean + shift).cpu().numpy(), covariance.cpu().numpy()
