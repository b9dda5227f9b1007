"""Scorers: sets of samples -> named numbers, by Inception's features or in pixel space.

    scorer = load_scorer("ref.npz", shape=(256, 256, 3), name="samples.npz")   # on every process
    scores = scorer.evaluate(batches, labels)                                  # on every process
    scores.metrics                                     # {"fid": ...} on the first; None elsewhere

A new kind of scorer is a class like `PixelScorer` and a line in `load_scorer`.
"""

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evaluation.evaluator import Evaluator
from evaluation.image_sets import ImageSet, content_hash
from evaluation.options import MetricOptions
from evaluation.pixel_scores import PIXELS_ARE_NOT_FID, load_images, pixel_metrics
from evaluation.scoring import Scores
from runtime.processes import Processes

DIGITS = "digits"  # scikit-learn's, where a set of images is named


class Scorer(Protocol):
    """Scorer of sets of samples against one reference. Every process makes one.

    Args:
        processes: the processes that share the work; each takes its share of the samples.
        pr_dtype: arithmetic of precision's and recall's distances.
    """

    processes: Processes

    @property
    def pr_dtype(self) -> str: ...

    def check_shape(self, shape: tuple[int, int, int], name: str) -> None:
        """Raise `ValueError` unless samples of (H, W, C), called `name`, can be compared."""

    def summary(self) -> str:
        """Return a line about the reference."""

    def describe(self, scores: Scores) -> dict:
        """Return how these numbers were computed, for their record; JSON-compatible."""

    def evaluate(
        self, batches: Iterable[np.ndarray | Tensor], labels: np.ndarray | None = None
    ) -> Scores | None:
        """Return named numbers on the first process, None on the others; a collective.

        Args:
            batches: this process's samples, uint8 (n, H, W, C) with any n.
            labels: of all samples (N,), in the order of the processes; None if unknown.
        """


class PixelScorer:
    """Scorer in pixel space against a labelled reference; its numbers are not FID.

    Args:
        reference: a set of images, or "digits". Raises `ValueError` if it cannot be read.
        channels: of the samples; files of greys may be read with one.
    """

    def __init__(self, reference: str, channels: int = 3):
        self.name, self.processes, self.pr_dtype = reference, Processes(), "float32"
        self.reference = load_images(reference, channels)

    def check_shape(self, shape: tuple[int, int, int], name: str) -> None:
        there = self.reference[0].shape[1:]
        if shape != there:
            raise ValueError(
                f"{name} has images of {shape}, and the reference {self.name} of {there}: give a "
                f"reference of the same shape (height, width, channels)"
            )

    def summary(self) -> str:
        return f"{self.name}: {len(self.reference[0]):,} images, in pixel space"

    def describe(self, scores: Scores) -> dict:
        counts = {"samples": scores.count, "reference": len(self.reference[0])}
        images, labels, recipe = self.reference
        about = {
            "path": self.name,
            "sha256": digest_of(images, labels) if self.name == DIGITS else content_hash(self.name),
            "images": len(images),
            "recipe": recipe,
        }
        return {"counts": counts, "note": PIXELS_ARE_NOT_FID, "reference": about}

    def evaluate(
        self, batches: Iterable[np.ndarray | Tensor], labels: np.ndarray | None = None
    ) -> Scores | None:
        own = [torch.asarray(batch, copy=True) for batch in batches]
        empty = torch.empty(0, *self.reference[0].shape[1:], dtype=torch.uint8)
        parts = self.processes.collect(torch.cat([empty, *own]))
        if not self.processes.first:
            return None
        images = torch.cat(parts).numpy()
        return Scores(pixel_metrics((images, labels, None), self.reference), len(images))


def load_scorer(
    reference: str,
    shape: tuple[int, int, int],
    name: str,
    options: MetricOptions | None = None,
    pixels: bool = False,
) -> Scorer:
    """Load the scorer for samples of one shape; a collective.

    Args:
        reference: an .npz in ADM's format, any set of images, or "digits".
        shape: (H, W, C) of the samples.
        name: name of the samples in messages.
        options: what else is wanted, and where the networks' weights are.
        pixels: compare in pixel space, as with "digits" always.

    Raises `ValueError` when the reference, the networks' weights or the shape cannot be used.
    """
    scorer: Scorer
    if pixels or reference == DIGITS:
        scorer = PixelScorer(reference, shape[2])
    elif shape[2] != 3:
        raise ValueError(
            f"{name}: images of one channel, Inception needs RGB; --pixels compares small images "
            f"without it"
        )
    else:
        scorer = Evaluator(reference, options)
    scorer.check_shape(shape, name)
    return scorer


def digest_of(images: np.ndarray, labels: np.ndarray) -> str:
    """Return the SHA-256 of images and labels that are in no file."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype=np.int64).data)
    return digest.hexdigest()


def digits_set() -> ImageSet:
    """Return scikit-learn's handwritten digits as a set of samples."""
    images, labels, recipe = load_images(DIGITS)
    return ImageSet(DIGITS, images, labels, recipe)
