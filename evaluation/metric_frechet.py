"""Frechet distance between Gaussians fitted to two sets of features (Heusel et al., 1706.08500).

d^2 = |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))
"""

import warnings

import numpy as np


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (D,) and covariance (D, D), with N - 1 in the denominator, in float64.

    Args:
        features: (N, D), N >= 2. With N <= D the covariance is singular, and a warning is given.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (N, D) with N >= 2, they are {features.shape}")
    if message := rank_warning(*features.shape):
        warnings.warn(message, stacklevel=2)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def rank_warning(count: int, dimensions: int, what: str = "samples") -> str | None:
    """Return the warning for too few samples for a covariance of full rank."""
    if count > dimensions:
        return None
    return (
        f"{count} {what} for {dimensions} dimensions: the covariance is singular and the "
        f"Frechet distance, though finite, far from its value with many samples"
    )


def frechet_distance(
    mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray
) -> float:
    """Return the squared Frechet distance, which FID reports, computed in float64.

    With R_i' R_i = S_i, the trace of the root of S_1 S_2 is the sum of the singular values of
    R_1 R_2' (of the centred features X_1 X_2', up to their counts). Its rounding error is that of
    the largest singular value. The eigenvalues of R_1 S_2 R_1' would give the same sum, but each
    is the square of a singular value, and small ones drown in the rounding error of the largest.

    Raises `ValueError` when the shapes differ, a value is not finite, or a sigma is no covariance.
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
    if not (is_covariance(sigma1) and is_covariance(sigma2)):
        raise ValueError("a covariance is not symmetric, or has a variance below 0")
    return distance_from_root(mu1, sigma1, root(sigma1), mu2, sigma2)


def is_covariance(sigma: np.ndarray) -> bool:
    """Return whether (D, D) is symmetric, up to rounding to float16, without negative variances."""
    scale = 1e-3 * np.abs(sigma).max(initial=0)
    return bool((np.abs(sigma - sigma.T) <= scale).all() and (np.diagonal(sigma) >= 0).all())


def root(sigma: np.ndarray) -> np.ndarray:
    """Return R (rank, D) with R' R = sigma, by Cholesky, or by eigenvectors if it is singular.

    Where sigma is singular (fewer samples than dimensions), eigenvalues that are zero but for
    rounding are dropped: the root of a rounding error of 1e-16 is 1e-8, and there are many.
    """
    try:
        factor = np.linalg.cholesky(sigma)
        if above_rounding(np.square(np.diagonal(factor)), np.diagonal(sigma).max()).all():
            return factor.T
    except np.linalg.LinAlgError:
        pass  # not positive definite
    values, vectors = np.linalg.eigh(sigma)
    kept = above_rounding(values, values.max(initial=0))
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def distance_from_root(mu1, sigma1, root1, mu2, sigma2) -> float:
    """Return `frechet_distance` where root(sigma1) is known already."""
    trace = np.linalg.svd(root1 @ root(sigma2).T, compute_uv=False).sum()
    distance = np.square(mu1 - mu2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * trace
    return max(0.0, float(distance))  # rounding can go below 0


def above_rounding(values: np.ndarray, scale: float) -> np.ndarray:
    """Return where values exceed the rounding error of a solver with largest value `scale`."""
    return values > max(scale, 0) * len(values) * np.finfo(np.float64).eps
