"""The Inception Score of class predictions of samples (Salimans et al., arXiv 1606.03498).

IS = exp(mean of KL(p(y|x) || p(y))), as ADM's evaluator computes it.
"""

import numpy as np

SPLIT = 5000


def inception_score(probs: np.ndarray, split_size: int = SPLIT) -> float:
    """Return the mean score over consecutive splits of `split_size` samples, in file order.

    Args:
        probs: class probabilities (N, K), rows summing to 1. Samples sorted by class give a wrong
            score, since each split then sees few classes.

    Raises `ValueError` for another shape, values that are not finite, or rows that do not sum to 1.
    """
    probs = np.asarray(probs)
    if probs.ndim != 2 or not len(probs):
        raise ValueError(f"probabilities must be (N, K) with N >= 1, they are {probs.shape}")
    if split_size < 1:
        raise ValueError(f"split_size {split_size}: at least 1")
    sums = probs.sum(axis=1, dtype=np.float64)
    if probs.min() < 0 or (np.abs(sums - 1) > 0.01).any():
        raise ValueError(
            f"probabilities must be at least 0 with rows that sum to 1, they are from "
            f"{probs.min():.3g}, and sum to {sums.min():.3g} to {sums.max():.3g}; of logits, take "
            f"the softmax"
        )
    scores = []
    for start in range(0, len(probs), split_size):
        part = probs[start : start + split_size].astype(np.float64)
        marginal = part.mean(axis=0)
        # 0 log 0 = 0; a class with marginal 0 has probability 0 in every sample
        logs = np.log(np.where(part > 0, part, 1)) - np.log(np.where(marginal > 0, marginal, 1))
        scores.append(np.exp((part * logs).sum(axis=1).mean()))
    if not np.isfinite(scores).all():
        raise ValueError("probabilities hold values that are not finite")
    return float(np.mean(scores))


def sorted_by_class(classes: np.ndarray) -> bool:
    """Return whether neighbours share their class much more often than in a random order.

    Args:
        classes: labels or predictions (N,), integers.
    """
    if len(classes) < 2:
        return False
    _, counts = np.unique(classes, return_counts=True)
    chance = np.square(counts / len(classes)).sum()
    excess = (classes[1:] == classes[:-1]).mean() - chance
    deviation = np.sqrt(chance * (1 - chance) / (len(classes) - 1))
    return bool(excess > 0.1 * (1 - chance) and excess > 5 * deviation)
