"""The reference: statistics of a data set, and some of its images for precision and recall.

ADM's reference batches hold `mu`, `sigma` (pool), `mu_s`, `sigma_s` (spatial) of a whole training
set, and 10,000 of its images in `arr_0`. A reference without statistics gets those of its images.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from evaluation.image_sets import ImageSet, content_hash, open_images, read_recipe
from evaluation.metric_frechet import is_covariance
from runtime.npz import array_names, read_small

STATISTICS = {  # feature: keys of its mean and covariance
    "pool": ("mu", "sigma"),
    "spatial": ("mu_s", "sigma_s"),
    "dinov2": ("mu_dinov2", "sigma_dinov2"),
}
REMEDY = "make a reference with `python -m evaluation reference DATA -o FILE`"


@dataclass
class Reference:
    """A reference as it is on disk; `images` is None if it holds only statistics."""

    path: str
    images: ImageSet | None
    statistics: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    recipe: dict | None = None

    def check_shape(self, shape: tuple[int, int, int], name: str) -> None:
        """Raise `ValueError` unless samples of (H, W, C) can be compared with this reference."""
        size = self.images.shape[:2] if self.images else (self.recipe or {}).get("image_size")
        if size and shape[:2] != tuple(size):
            raise ValueError(
                f"{name} holds images of {shape[0]}x{shape[1]} and the reference {self.path} of "
                f"{size[0]}x{size[1]}: give a reference of the samples' resolution"
            )

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of the whole file."""
        return content_hash(self.path)

    def describe(self) -> dict:
        """Return a description of the reference, for the record of an evaluation."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "images": len(self.images) if self.images else 0,
            "stored_statistics": [key for name in self.statistics for key in STATISTICS[name]],
            "recipe": self.recipe,
        }

    def summary(self) -> str:
        """Return a line about the reference."""
        parts = [f"{len(self.images):,} images" if self.images else "no images"]
        parts += ["stored statistics"] if self.statistics else []
        recipe = self.recipe or {}
        parts += [f"of {recipe['data']}"] if "data" in recipe else []
        return f"{self.path}: {', '.join(parts)}, SHA-256 {self.sha256[:12]}"


def load_reference(path: str) -> Reference:
    """Read the reference at `path`: ADM's .npz, or any set of images.

    Raises `ValueError` when keys are missing, shapes are wrong or values not finite.
    """
    if Path(path).is_dir() or not Path(path).is_file() or Path(path).suffix == ".npy":
        every = open_images(path)
        return Reference(path, every, recipe=every.recipe)
    names = array_names(path)
    stored = {
        feature: keys for feature, keys in STATISTICS.items() if any(key in names for key in keys)
    }
    if "pool" in stored or "spatial" in stored:
        stored = {"pool": STATISTICS["pool"], "spatial": STATISTICS["spatial"]} | stored
    missing = [key for keys in stored.values() for key in keys if key not in names]
    if missing or not (stored or "arr_0" in names):
        needed = ", ".join(missing) if missing else "mu, sigma, mu_s, sigma_s and no arr_0"
        raise ValueError(f"reference {path}: no {needed} in it, only {', '.join(names)}; {REMEDY}")
    images = open_images(path) if "arr_0" in names else None
    statistics = {feature: read_statistics(path, *keys) for feature, keys in stored.items()}
    return Reference(path, images, statistics, read_recipe(path))


def read_statistics(path: str, mean_key: str, covariance_key: str) -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = (read_small(path, key) for key in (mean_key, covariance_key))
    if not all(np.issubdtype(array.dtype, np.floating) for array in (mean, covariance)):
        raise ValueError(
            f"reference {path}: {mean_key} is {mean.dtype} and {covariance_key} "
            f"{covariance.dtype}, they must be floating-point numbers; {REMEDY}"
        )
    if mean.ndim != 1 or covariance.shape != (*mean.shape, *mean.shape):
        raise ValueError(
            f"reference {path}: {mean_key} {mean.shape} and {covariance_key} {covariance.shape} "
            f"must be (D,) and (D, D)"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(
            f"reference {path}: {mean_key} or {covariance_key} holds NaN or inf; {REMEDY}"
        )
    if not is_covariance(covariance.astype(np.float64)):
        raise ValueError(
            f"reference {path}: {covariance_key} is no covariance: it is not symmetric, or has a "
            f"variance below 0; {REMEDY}"
        )
    return mean, covariance
