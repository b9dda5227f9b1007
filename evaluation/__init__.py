"""Sets of samples and their scores: images -> features -> statistics -> metric."""

from importlib import import_module

PUBLIC = {
    "Evaluator": "evaluation.evaluator",
    "frechet_distance": "evaluation.metric_frechet",
    "inception_score": "evaluation.metric_inception_score",
    "precision_recall": "evaluation.metric_precision_recall",
    "statistics": "evaluation.metric_frechet",
}
__all__ = list(PUBLIC)


def __getattr__(name: str):
    """Import a public name when it is first used: `--help` answers without torch."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
