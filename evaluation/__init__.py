"""Sets of samples and their scores: features -> statistics -> metric."""

from evaluation.frechet import frechet_distance, statistics
from evaluation.inception_score import inception_score
from evaluation.manifold import precision_recall

__all__ = ["frechet_distance", "inception_score", "precision_recall", "statistics"]
