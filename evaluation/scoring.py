"""Computation of the requested metrics from the features of one set of samples."""

import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from evaluation.bootstrap import NORMAL_95, deviations
from evaluation.features import Features
from evaluation.metric_frechet import distance_from_root, rank_warning, root
from evaluation.metric_inception_score import SPLIT, inception_score, sorted_by_class
from evaluation.metric_precision_recall import precision_recall
from evaluation.moments import Moments
from evaluation.options import MetricOptions

K = 3  # neighbours of precision and recall
KID_SUBSET = 1000
FRECHET = {"fid": "pool", "sfid": "spatial", "fd_dinov2": "dinov2"}  # metric: feature
Statistics = tuple[np.ndarray, np.ndarray]  # mean (D,), covariance (D, D)


@dataclass
class Real:
    """The data that samples are compared with; `pool` is None where the reference has no images."""

    statistics: dict[str, Statistics]
    pool: np.ndarray | None = None
    labels: np.ndarray | None = None
    computed: dict[str, int] = field(default_factory=dict)
    """of how many images the statistics of a feature are, where they were not stored"""
    roots: dict[str, np.ndarray] = field(default_factory=dict)
    """roots of the covariances, the slower half of a Frechet distance, computed once"""

    def distance(self, name: str, mean: np.ndarray, covariance: np.ndarray) -> float:
        """Return the Frechet distance of samples with these statistics of a feature."""
        if name not in self.roots:
            self.roots[name] = root(self.statistics[name][1])
        return distance_from_root(*self.statistics[name], self.roots[name], mean, covariance)


@dataclass
class Scores:
    """Scores of one set of samples; `intervals` are 95% intervals, `per_class` goes by label."""

    metrics: dict[str, float]
    count: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_class: dict[int, dict[str, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def score(
    features: Features,
    labels: np.ndarray | None,
    real: Real,
    o: MetricOptions,
    device: torch.device | str = "cpu",
) -> Scores:
    """Compute every metric that `o` asks for.

    Args:
        features: moments of the features in FRECHET, and `pool` and `logits` of each image.
        labels: labels of the samples (N,), if they are known.
    """
    pool = features.kept["pool"]
    probs = torch.from_numpy(features.kept["logits"]).softmax(dim=1).numpy()
    metrics = {
        metric: real.distance(name, *features.statistics(name))
        for metric, name in frechet_of(features)
    }
    metrics["inception_score"] = inception_score(probs)
    if real.pool is not None:
        metrics["precision"], metrics["recall"] = precision_recall(
            real.pool, pool, K, o.pr_dtype, device, progress=True
        )
    if o.kid:
        assert real.pool is not None  # the options were checked against the reference
        metrics["kid"] = kernel_distance(real.pool, pool)
    for count in o.fid_at:
        metrics[f"fid_at_{count}"] = real.distance("pool", *first_statistics(pool, count))
    scores = Scores(metrics, len(pool), warnings=warnings_about(features, labels, probs, real, o))
    if o.bootstrap:
        spread = deviations(pool, probs, partial(real.distance, "pool"), o.bootstrap, device)
        for name, deviation in spread.items():
            half = NORMAL_95 * deviation
            scores.intervals[name] = metrics[name] - half, metrics[name] + half
    if o.per_class:
        assert labels is not None
        scores.per_class = per_class(real, pool, labels, o.pr_dtype, device)
    return scores


def frechet_of(features: Features) -> list[tuple[str, str]]:
    """Return (metric, feature) of each Frechet distance that there are features for."""
    return [(metric, name) for metric, name in FRECHET.items() if name in features.moments]


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return KID, torch-fidelity's mean over 100 random subsets of 1,000 (or of all if fewer)."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    tensors = torch.from_numpy(generated), torch.from_numpy(real)
    subset = min(KID_SUBSET, *map(len, tensors))
    return kid_features_to_metric(*tensors, kid_subset_size=subset, verbose=False)[
        KEY_METRIC_KID_MEAN
    ]


def first_statistics(pool: np.ndarray, count: int) -> Statistics:
    moments = Moments(pool.shape[1])
    for part in torch.from_numpy(pool[:count]).split(4096):
        moments.add(part)
    return moments.statistics()


def per_class(real: Real, pool: np.ndarray, labels: np.ndarray, dtype: str, device) -> dict:
    """Return precision and recall of each label that has k + 1 images in both sets."""
    assert real.pool is not None and real.labels is not None
    scores = {}
    for label in np.intersect1d(labels, real.labels):
        theirs, ours = real.pool[real.labels == label], pool[labels == label]
        if min(len(theirs), len(ours)) > K:
            precision, recall = precision_recall(theirs, ours, K, dtype, device)
            scores[int(label)] = {"precision": precision, "recall": recall}
    return scores


def warnings_about(
    features: Features, labels: np.ndarray | None, probs: np.ndarray, real: Real, o: MetricOptions
) -> list[str]:
    """Return warnings that readers of these numbers need."""
    count = len(probs)
    warnings = []
    sizes = {metric: len(features.moments[name].mean) for metric, name in frechet_of(features)}
    deficient = [metric for metric, size in sizes.items() if rank_warning(count, size)]
    if deficient:
        warnings.append(f"{', '.join(deficient)}: {rank_warning(count, max(sizes.values()))}")
    own = {metric: real.computed.get(FRECHET[metric], math.inf) for metric in sizes}
    short = [metric for metric, size in sizes.items() if own[metric] <= size]
    if short:
        images = "images of the reference"
        few = rank_warning(int(own[short[0]]), max(sizes.values()), images)
        warnings.append(f"{', '.join(short)}: {few}")
    if count > SPLIT and count % SPLIT:
        warnings.append(
            f"Inception Score: the last of its splits, {count % SPLIT:,} images and not {SPLIT:,}, "
            f"counts as much as the others, and lowers it: score a multiple of {SPLIT:,}"
        )
    classes = {"labels": labels, "predicted classes": probs.argmax(axis=1)}
    in_order = [what for what, c in classes.items() if c is not None and sorted_by_class(c)]
    if in_order:
        effect = "is far too low: shuffle the images" if count > SPLIT else "has one split here"
        warnings.append(
            f"{' and '.join(in_order)} are sorted: Inception Score, in file order with {SPLIT:,} "
            f"images a split, {effect}"
        )
    if o.fid_at:
        warnings.append("FID depends on the number of samples: compare it at the same number only")
    if o.kid and real.pool is not None and min(count, len(real.pool)) < KID_SUBSET:
        warnings.append(f"KID: fewer than {KID_SUBSET:,} images, all are taken for every subset")
    return warnings
