"""Names of the numbers that evaluations give, and which way each is better."""

import re

PIXEL_METRICS = (
    "pixel_frechet",
    "pixel_precision",
    "pixel_recall",
    "classifier_score",
    "label_agreement",
)
METRICS = ("fid", "sfid", "inception_score", "precision", "recall")
RISING = ("inception_score", "precision", "recall", *PIXEL_METRICS[1:])  # more is better


def known_metrics(config) -> list[str]:
    """Names of the numbers that an evaluation gives, the one that is usually looked at first."""
    if config.pixels or config.ref == "digits":
        return list(PIXEL_METRICS)
    more = [name for name in ("kid", "fd_dinov2") if getattr(config.metrics, name)]
    return [*METRICS, *more, *(f"fid_at_{count}" for count in config.metrics.fid_at)]


def check_metric(metric: str | None, config) -> str:
    """The metric asked for, or the first; `ValueError` if the evaluation does not give it."""
    known = known_metrics(config)
    if metric is not None and metric not in known:
        raise ValueError(f"--metric {metric}: --evaluate gives {', '.join(known)}")
    return metric or known[0]


def label(metric: str) -> str:
    """The name of a metric in words, with an arrow for the better direction."""
    return f"{re.sub('_', ' ', metric)} {'↑' if metric in RISING else '↓'}"
