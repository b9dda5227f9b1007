"""python -m evaluation: what it prints, writes and refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest
from launching import ENVIRONMENT, ROOT

from evaluation.pixels import load_images, pixel_metrics
from evaluation.samples import read_samples


def evaluate(*args):
    command = [sys.executable, "-m", "evaluation", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


def test_real_digits_score_as_real():
    digits = load_images("digits")
    metrics = pixel_metrics(digits, digits)
    assert metrics["pixel_frechet"] == pytest.approx(0, abs=1e-6)
    assert metrics["pixel_precision"] == metrics["pixel_recall"] == 1
    assert 8 < metrics["classifier_score"] <= 10 and metrics["label_agreement"] > 0.98


def test_noise_and_wrong_labels_score_worse():
    images, labels, _ = digits = load_images("digits")
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    metrics = pixel_metrics((noise, np.roll(labels, 1), None), digits)
    assert metrics["pixel_frechet"] > 5 and metrics["pixel_precision"] < 0.1
    assert metrics["label_agreement"] < 0.3


def test_prints_and_writes_scores_with_the_recipe(tmp_path):
    images, labels, _ = load_images("digits")
    recipe = json.dumps({"seed": 4})
    np.savez(tmp_path / "s.npz", arr_0=images[:300], labels=labels[:300], recipe=recipe)
    done = evaluate(tmp_path / "s.npz", "--ref", "digits")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "s.metrics.json").read_text())
    assert record["recipe"] == {"seed": 4}
    assert record["counts"] == {"samples": 300, "reference": 1797}
    assert "not FID" in record["note"] and "not FID" in done.stdout
    for name, value in record["metrics"].items():
        assert name in done.stdout and f"{value:.4f}" in done.stdout


@pytest.mark.parametrize(
    ("message", "arrays"),
    [
        ("no arr_0 in it", dict(images=np.zeros((5, 8, 8, 1), np.uint8))),
        ("must be uint8 images .* float64", dict(arr_0=np.zeros((5, 8, 8, 1)))),
        (r"must be uint8 images .* \(5, 8, 8\)", dict(arr_0=np.zeros((5, 8, 8), np.uint8))),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, message, arrays):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_samples(tmp_path / "s.npz")


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_samples(tmp_path / "none.npz")
    np.savez(tmp_path / "s.npz", arr_0=np.zeros((50, 8, 8, 1), np.uint8))
    content = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"truncated, or not an \.npz"):
        read_samples(tmp_path / "s.npz")
    with pytest.raises(ValueError, match=r"samples are \(9, 9, 1\) images and the reference"):
        digits = load_images("digits")
        pixel_metrics((np.zeros((9, 9, 9, 1), np.uint8), None, None), digits)


def test_an_error_is_one_line(tmp_path):
    done = evaluate(tmp_path / "none.npz")
    assert done.returncode == 2
    assert done.stderr.strip() == f"python -m evaluation: error: {tmp_path}/none.npz: no such file"
