"""Frechet distance between Gaussians fitted to two sets of features (Heusel et al., 1706.08500).

d^2 = |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))
"""

import numpy as np


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), with N - 1 in the denominator, in float64.

    Args:
        features: (N, D), N >= 2.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (N, D) with N >= 2, they are {features.shape}")
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet_distance(
    mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray
) -> float:
    """The squared Frechet distance, which is what FID reports; computed in float64.

    The trace of the root of S_1 S_2 is the sum of the roots of the eigenvalues of
    S_1^(1/2) S_2 S_1^(1/2). That matrix is symmetric, so its eigenvalues are real, and they stay
    accurate where covariances are rank-deficient (fewer samples than dimensions).

    Raises `ValueError` when the shapes differ or a value is not finite.
    """
    mu1, sigma1, mu2, sigma2 = (np.asarray(a, np.float64) for a in (mu1, sigma1, mu2, sigma2))
    square = (*mu1.shape, *mu1.shape)
    if mu1.shape != mu2.shape or not sigma1.shape == sigma2.shape == square:
        raise ValueError(
            f"statistics of {mu1.shape}, {sigma1.shape} and {mu2.shape}, {sigma2.shape} "
            f"do not go together"
        )
    if not all(np.isfinite(a).all() for a in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("statistics hold values that are not finite: features hold NaN or inf")
    values, vectors = np.linalg.eigh(sigma1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ sigma2 @ root).clip(min=0)
    distance = np.square(mu1 - mu2).sum() + np.trace(sigma1) + np.trace(sigma2)
    return max(0.0, float(distance - 2 * np.sqrt(eigenvalues).sum()))  # rounding can go below 0
