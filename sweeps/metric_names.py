"""Names of the numbers that evaluations give, and whether more or less of each is better."""

import re

FID, PIXELS = "fid", "pixel_frechet"  # the first of each kind
PIXEL_METRICS = (
    PIXELS,
    "pixel_precision",
    "pixel_recall",
    "classifier_score",
    "label_agreement",
)
METRICS = (FID, "sfid", "inception_score", "precision", "recall")
RISING = ("inception_score", "precision", "recall", *PIXEL_METRICS[1:])  # more is better


def known_metrics(config) -> list[str]:
    """Return the names of an evaluation's numbers, the most usual one first."""
    if config.pixels or config.ref == "digits":
        return list(PIXEL_METRICS)
    more = [name for name in ("kid", "fd_dinov2") if getattr(config.metrics, name)]
    return [*METRICS, *more, *(f"fid_at_{count}" for count in config.metrics.fid_at)]


def check_metric(metric: str | None, config) -> str:
    """Return `metric`, or the first one; raise `ValueError` if the evaluation lacks it."""
    known = known_metrics(config)
    if metric is not None and metric not in known:
        raise ValueError(f"--metric {metric}: --evaluate gives {', '.join(known)}")
    return metric or known[0]


def label(metric: str) -> str:
    """Return the name of a metric in words, with an arrow for the better direction."""
    return f"{re.sub('_', ' ', metric)} {'↑' if metric in RISING else '↓'}"
