"""The class of image i, as a function of the seed and i alone."""

import numpy as np
import torch
from torch import Tensor

from runtime.randomness import LABELS, Streams


def random_labels(streams: Streams, num_classes: int) -> Tensor:
    """Draw labels independently, each from its image's own stream, (N,) int64."""
    return streams.integers(num_classes)


def balanced_labels(seed: int, images: range, num_classes: int) -> Tensor:
    """Return labels, (N,) int64, in which each class comes once in every K images.

    Images b K ... (b + 1) K - 1 have each class once, in an order drawn for block b. So any long
    range of images holds nearly the same number of each class, which splits of an Inception Score
    need.
    """
    blocks = {
        block: np.random.default_rng((LABELS, seed, block)).permutation(num_classes)
        for block in {i // num_classes for i in images}
    }
    return torch.tensor([int(blocks[i // num_classes][i % num_classes]) for i in images])
