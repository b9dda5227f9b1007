"""What samples are compared in: their pixels, and a classifier fitted to the labelled reference.

This is for small images without an Inception network at hand. Numbers in pixel space are not FID.
"""

import numpy as np

PIXELS_ARE_NOT_FID = (
    "Scored in pixel space, with a classifier fitted to the reference: these numbers are not FID "
    "or Inception Score, and compare only with each other."
)


def pixel_features(images: np.ndarray) -> np.ndarray:
    """uint8 images (N, H, W, C) to (N, H W C) in [-1, 1], float64."""
    return images.reshape(len(images), -1) / 127.5 - 1


class PixelClassifier:
    """Multinomial logistic regression on pixels, fitted to labelled reference images."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        from sklearn.linear_model import LogisticRegression

        self.model = LogisticRegression(max_iter=2000).fit(pixel_features(images), labels)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """(N, K), rows summing to 1."""
        return self.model.predict_proba(pixel_features(images))

    def agreement(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of images that it takes for their label."""
        return float((self.model.predict(pixel_features(images)) == labels).mean())
