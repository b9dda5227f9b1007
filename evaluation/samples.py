"""Reading a set of samples whole: small ones, for pixel scores and tests."""

from pathlib import Path

import numpy as np

from evaluation.image_sets import open_images


def read_samples(path: str | Path) -> tuple[np.ndarray, np.ndarray | None, dict | None]:
    """(images uint8 (N, H, W, C), labels or None, recipe or None); `ValueError` for a bad file."""
    found = open_images(path)
    return found.images[:], found.labels, found.recipe
