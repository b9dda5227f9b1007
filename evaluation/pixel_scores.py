"""Scores in pixel space, with a classifier fitted to the labelled reference.

This is for small images without an Inception network at hand. Numbers in pixel space are not FID.
"""

import numpy as np

from evaluation.metric_frechet import frechet_distance, statistics
from evaluation.metric_inception_score import inception_score
from evaluation.metric_precision_recall import precision_recall
from evaluation.samples import read_samples

LARGEST = 64 * 64 * 3  # values per image: the covariance has the square of that
PIXELS_ARE_NOT_FID = (
    "Scored in pixel space, with a classifier fitted to the reference: these numbers are not FID "
    "or Inception Score, and compare only with each other."
)


def pixel_features(images: np.ndarray) -> np.ndarray:
    """Return uint8 images (N, H, W, C) as features (N, H W C) in [-1, 1], float64."""
    return images.reshape(len(images), -1) / 127.5 - 1


class PixelClassifier:
    """Multinomial logistic regression on pixels, fitted to labelled reference images."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        from sklearn.linear_model import LogisticRegression

        self.model = LogisticRegression(max_iter=2000).fit(pixel_features(images), labels)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K), rows summing to 1."""
        return self.model.predict_proba(pixel_features(images))

    def agreement(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of images whose label is the predicted class."""
        return float((self.model.predict(pixel_features(images)) == labels).mean())


def load_images(name: str, channels: int = 3):
    """Read (images, labels or None, recipe or None) of a set of images, or of "digits".

    Args:
        channels: 1 to read files of greys with one channel.
    """
    if name != "digits":
        return read_samples(name, channels)
    from data.sources import DigitsSource

    source = DigitsSource()
    images = source.images.permute(0, 2, 3, 1).numpy()
    return images, np.array(source.labels), {"data": "scikit-learn digits"}


def pixel_metrics(samples: tuple, reference: tuple) -> dict[str, float]:
    """Return scores of (images, labels, ...) in pixel space, without labels only some of them.

    Both sets have images of one shape (H, W, C). Raises `ValueError` for images that are too large.
    """
    (images, labels, _), (ref_images, ref_labels, _) = samples, reference
    if images[0].size > LARGEST:
        raise ValueError(
            f"images of {images.shape[1:]}: in pixel space they may have {LARGEST} values at most"
        )
    features, ref_features = pixel_features(images), pixel_features(ref_images)
    precision, recall = precision_recall(ref_features, features)
    metrics = {
        "pixel_frechet": frechet_distance(*statistics(ref_features), *statistics(features)),
        "pixel_precision": precision,
        "pixel_recall": recall,
    }
    if ref_labels is not None:
        classifier = PixelClassifier(ref_images, ref_labels)
        metrics["classifier_score"] = inception_score(classifier.probabilities(images))
        if labels is not None:
            metrics["label_agreement"] = classifier.agreement(images, labels)
    return metrics
