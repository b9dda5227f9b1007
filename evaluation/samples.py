"""Reading of a whole set of samples into memory: small sets, for pixel scores and tests."""

from pathlib import Path

import numpy as np

from evaluation.image_sets import open_images


def read_samples(
    path: str | Path, channels: int = 3
) -> tuple[np.ndarray, np.ndarray | None, dict | None]:
    """Read images uint8 (N, H, W, C), labels or None, and recipe or None.

    Args:
        channels: 1 to read files of greys with one channel.

    Raises `ValueError` for a bad file.
    """
    samples = open_images(path).in_channels(channels)
    return samples.images[:], samples.labels, samples.recipe
