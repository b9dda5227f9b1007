"""Sets of samples and their scores: images -> features -> statistics -> metric."""

from importlib import import_module

PUBLIC = {
    "Evaluator": "evaluation.evaluator",
    "frechet_distance": "evaluation.frechet",
    "inception_score": "evaluation.classes",
    "precision_recall": "evaluation.manifold",
    "statistics": "evaluation.frechet",
}
__all__ = list(PUBLIC)


def __getattr__(name: str):
    """Load what is asked for: `python -m evaluation --help` answers without torch."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
