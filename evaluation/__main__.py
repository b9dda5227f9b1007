"""Score a set of samples against a reference.

    python -m evaluation samples.npz --ref reference.npz
    python -m evaluation samples.npz --ref digits          # scikit-learn's digits

Prints a table and writes samples.metrics.json beside the samples, their recipe in it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from training.launch import parse_command, usage_errors

LARGEST = 64 * 64 * 3  # values per image: the covariance has the square of that


@dataclass(frozen=True)
class Evaluation:
    """Score a set of samples against a reference, in pixel space."""

    samples: Annotated[str, tyro.conf.Positional]
    """.npz with uint8 images (N, H, W, C) in arr_0; or "digits" """
    ref: str = "digits"
    """the reference: an .npz of the same layout, or "digits", scikit-learn's handwritten digits"""
    out: str | None = None
    """where to write the scores; NAME.metrics.json beside NAME.npz unless given"""


def load_images(name: str):
    """(images, labels or None, recipe or None) of an .npz or of "digits"."""
    if name != "digits":
        from evaluation.samples import read_samples

        return read_samples(name)
    import numpy as np

    from training.sources import DigitsSource

    source = DigitsSource()
    images = source.images.permute(0, 2, 3, 1).numpy()
    return images, np.array(source.labels), {"data": "scikit-learn digits"}


def pixel_metrics(samples: tuple, reference: tuple) -> dict[str, float]:
    """Scores of (images, labels, ...) in pixel space; what needs labels is left out without."""
    from evaluation import frechet_distance, inception_score, precision_recall, statistics
    from evaluation.features import PixelClassifier, pixel_features

    (images, labels, _), (ref_images, ref_labels, _) = samples, reference
    if images[0].size > LARGEST:
        raise ValueError(
            f"images of {images.shape[1:]}: in pixel space they may have {LARGEST} values at most"
        )
    if images.shape[1:] != ref_images.shape[1:]:
        raise ValueError(
            f"samples are {images.shape[1:]} images and the reference {ref_images.shape[1:]}"
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


def main() -> None:
    config = parse_command(Evaluation)
    from evaluation.features import PIXELS_ARE_NOT_FID

    with usage_errors():
        samples, reference = load_images(config.samples), load_images(config.ref)
        metrics = pixel_metrics(samples, reference)
    beside = Path(config.samples).with_suffix(".metrics.json")
    out = Path(config.out) if config.out else beside
    counts = {"samples": len(samples[0]), "reference": len(reference[0])}
    record = {"metrics": metrics, "counts": counts, "note": PIXELS_ARE_NOT_FID}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record | {"recipe": samples[2]}, indent=2) + "\n")
    print(f"{counts['samples']} samples of {config.samples} against {counts['reference']} images")
    for name, value in metrics.items():
        print(f"  {name:18s} {value:10.4f}")
    print(f"{PIXELS_ARE_NOT_FID}\nwritten to {out}")


if __name__ == "__main__":
    main()
