"""Inception Score (Salimans et al., arXiv 1606.03498), as ADM's evaluator computes it.

IS = exp(mean of KL(p(y|x) || p(y)))
"""

import numpy as np


def inception_score(probs: np.ndarray, split_size: int = 5000) -> float:
    """Mean over consecutive splits of `split_size` samples, in file order.

    Args:
        probs: class probabilities (N, K), rows summing to 1. Samples sorted by class give a wrong
            score, since each split then sees few classes.
    """
    probs = np.asarray(probs, dtype=np.float64)
    if probs.ndim != 2 or not len(probs):
        raise ValueError(f"probabilities must be (N, K) with N >= 1, they are {probs.shape}")
    scores = []
    for start in range(0, len(probs), split_size):
        part = probs[start : start + split_size]
        marginal = part.mean(axis=0)
        # 0 log 0 = 0; a class with marginal 0 has probability 0 in every sample
        logs = np.log(np.where(part > 0, part, 1)) - np.log(np.where(marginal > 0, marginal, 1))
        scores.append(np.exp((part * logs).sum(axis=1).mean()))
    return float(np.mean(scores))
