"""Evaluations from images to scores, with a tiny network in Inception's place."""

import numpy as np
import pytest
import torch

from evaluation import (
    Evaluator,
    frechet_distance,
    inception_score,
    precision_recall,
    statistics,
)
from evaluation.options import MetricOptions
from evaluation.pixel_scores import pixel_metrics
from evaluation.scorers import load_scorer

pytestmark = pytest.mark.usefixtures("tiny_networks")
LABELS = np.arange(60) % 3


@pytest.fixture
def reference(tmp_path, images):
    """An .npz without statistics."""
    path = tmp_path / "ref.npz"
    np.savez(path, images(60, 1), LABELS)
    return str(path)


@pytest.fixture
def samples(images):
    return images(48, 2)


def evaluate(reference, samples, batch=16, labels=None, **options):
    evaluator = Evaluator(reference, MetricOptions(batch_size=batch, **options))
    batches = [samples[i : i + batch] for i in range(0, len(samples), batch)]
    return evaluator.evaluate(batches, labels)


def features_of(network, images):
    features = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    return {name: value.numpy() for name, value in features.items()}


def test_scores_are_the_metrics_of_the_features(reference, samples, images, tiny_networks):
    real, made = features_of(tiny_networks, images(60, 1)), features_of(tiny_networks, samples)
    metrics = evaluate(reference, samples, pr_dtype="float32").metrics
    for metric, name in {"fid": "pool", "sfid": "spatial"}.items():
        expected = frechet_distance(*statistics(real[name]), *statistics(made[name]))
        assert metrics[metric] == pytest.approx(expected, rel=1e-6)
    exponentials = np.exp(made["logits"].astype(np.float64))
    probs = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert metrics["inception_score"] == pytest.approx(inception_score(probs), rel=1e-6)
    expected = precision_recall(real["pool"], made["pool"])
    assert (metrics["precision"], metrics["recall"]) == expected
    assert 0 < expected[0] <= 1 and 0 < expected[1] <= 1


@pytest.mark.parametrize("batch", [1, 7, 48])
def test_batch_size_changes_nothing(reference, samples, batch):
    expected, actual = (evaluate(reference, samples, b).metrics for b in (16, batch))
    assert actual == pytest.approx(expected, rel=1e-6)


def test_order_changes_no_fid(reference, samples):
    actual, expected = (evaluate(reference, s).metrics for s in (samples[::-1].copy(), samples))
    assert actual["fid"] == pytest.approx(expected["fid"], rel=1e-6)


def test_stored_statistics_come_first(tmp_path, samples, images, tiny_networks):
    """As in ADM's files: statistics of many images, precision and recall of a few."""
    many = features_of(tiny_networks, images(200, 5))
    keys = zip(("mu", "sigma", "mu_s", "sigma_s"), [
        *statistics(many["pool"]), *statistics(many["spatial"])], strict=True)  # fmt: skip
    arrays = dict(keys)
    np.savez(tmp_path / "few.npz", images(60, 1))
    np.savez(tmp_path / "both.npz", images(60, 1), **arrays)
    np.savez(tmp_path / "alone.npz", **arrays)
    few, both, alone = (
        evaluate(str(tmp_path / f"{name}.npz"), samples).metrics
        for name in ("few", "both", "alone")
    )
    made = features_of(tiny_networks, samples)
    expected = frechet_distance(arrays["mu"], arrays["sigma"], *statistics(made["pool"]))
    assert both["fid"] == alone["fid"] == pytest.approx(expected, rel=1e-6)
    assert both["fid"] != pytest.approx(few["fid"], rel=1e-3)
    assert both["precision"] == few["precision"] and "precision" not in alone


def test_what_else_can_be_asked_for(reference, samples, images, tiny_networks):
    labels = np.arange(48) % 3
    options = dict(kid=True, bootstrap=8, fid_at=(20, 48), per_class=True, pr_dtype="float32")
    result = evaluate(reference, samples, labels=labels, **options)
    real, made = features_of(tiny_networks, images(60, 1)), features_of(tiny_networks, samples)
    reference_statistics = statistics(real["pool"])
    expected = frechet_distance(*reference_statistics, *statistics(made["pool"][:20]))
    assert result.metrics["fid_at_20"] == pytest.approx(expected, rel=1e-6)
    assert result.metrics["fid_at_48"] == pytest.approx(result.metrics["fid"], rel=1e-9)
    assert any("same number" in warning for warning in result.warnings)
    assert np.isfinite(result.metrics["kid"])
    for name, (low, high) in result.intervals.items():
        assert low < result.metrics[name] < high
        assert (low + high) / 2 == pytest.approx(result.metrics[name])
    assert result.per_class.keys() == {0, 1, 2}
    for label, scores in result.per_class.items():
        own = real["pool"][label == LABELS], made["pool"][labels == label]
        assert (scores["precision"], scores["recall"]) == precision_recall(*own)


def test_an_evaluator_scores_again_and_again(reference, samples, images):
    evaluator = Evaluator(reference)
    first = evaluator.evaluate([samples]).metrics
    other = evaluator.evaluate([torch.from_numpy(images(48, 3))]).metrics
    assert evaluator.evaluate([samples]).metrics == first != other
    for batch in (images(8, 3, size=24), images(8, 3).transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match="a batch of the samples holds images of"):
            evaluator.evaluate([samples, batch])


def test_sorted_labels_and_few_samples_warn(reference, images):
    # one image over and over, then another: predictions are sorted too
    repeated = images(8, 7).repeat(8, axis=0)
    warnings = evaluate(reference, repeated, labels=np.arange(64) // 8).warnings
    assert any("labels and predicted classes are sorted" in warning for warning in warnings)
    (warning,) = evaluate(reference, images(5, 3)).warnings
    assert "fid, sfid: 5 samples for 6 dimensions" in warning


def test_few_images_of_a_reference_and_a_short_last_split_warn(tmp_path, images, monkeypatch):
    few, made = tmp_path / "few.npz", tmp_path / "made.npz"
    np.savez(few, arr_0=images(5, 1))
    monkeypatch.setattr("evaluation.scoring.SPLIT", 20)
    one, other = evaluate(few, images(43, 3)).warnings
    assert "fid, sfid: 5 images of the reference for 6 dimensions: the covariance is sing" in one
    assert "Inception Score: the last of its splits, 3 images and not 20, counts" in other
    statistics = dict(mu=np.zeros(6), sigma=np.eye(6), mu_s=np.zeros(5), sigma_s=np.eye(5))
    np.savez(made, arr_0=images(5, 1), **statistics)
    assert evaluate(made, images(40, 3)).warnings == []  # of as many images as it says itself


def write(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


MEAN, COVARIANCE = np.zeros(6), np.eye(6)
SPATIAL = dict(mu_s=np.zeros(5), sigma_s=np.eye(5))


@pytest.mark.parametrize(
    ("message", "arrays"),
    [
        ("no mu_s, sigma_s in it, only mu, sigma; make a", dict(mu=MEAN, sigma=COVARIANCE)),
        ("no mu, sigma, mu_s, sigma_s and no arr_0 in it, only features", dict(features=MEAN)),
        ("mu or sigma holds NaN", dict(mu=MEAN * np.nan, sigma=COVARIANCE, **SPATIAL)),
        (r"mu \(6,\) and sigma \(3, 3\)", dict(mu=MEAN, sigma=np.eye(3), **SPATIAL)),
        ("of 4 pool features, the network has 6", dict(mu=MEAN[:4], sigma=np.eye(4), **SPATIAL)),
        ("3 images, precision and recall need 4", dict(arr_0=np.zeros((3, 12, 12, 3), np.uint8))),
        ("images of one channel", dict(arr_0=np.zeros((9, 12, 12, 1), np.uint8))),
        (
            "made with another inception_sha256: f00, not 000",
            dict(mu=MEAN, sigma=COVARIANCE, **SPATIAL, arr_0=np.zeros((9, 12, 12, 3), np.uint8),
                 recipe=np.array('{"inception_sha256": "f00"}')),
        ),
    ],
)  # fmt: skip
def test_references_that_cannot_be_used_are_refused(tmp_path, message, arrays):
    with pytest.raises(ValueError, match=message):
        Evaluator(write(tmp_path / "ref.npz", **arrays))


def test_references_without_what_was_asked_for_are_refused(tmp_path, images):
    alone = write(tmp_path / "alone.npz", mu=MEAN, sigma=COVARIANCE, **SPATIAL)
    for flag in ("kid", "per_class", "fd_dinov2"):
        with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} needs images"):
            Evaluator(alone, MetricOptions(**{flag: True}))
    with pytest.raises(ValueError, match="--per-class needs labels"):
        Evaluator(write(tmp_path / "x.npz", arr_0=images(9, 0)), MetricOptions(per_class=True))
    with pytest.raises(ValueError, match="--batch-size 0"):
        Evaluator(alone, MetricOptions(batch_size=0))


def test_scorers_of_both_kinds_share_the_work_and_name_their_numbers(tmp_path, images):
    """Samples in any batches; numbers are those of the functions behind them."""
    made, real = images(30, 1), images(40, 2)
    labels, real_labels = np.arange(30) % 3, np.arange(40) % 3
    np.savez(tmp_path / "ref.npz", real, real_labels)
    reference = str(tmp_path / "ref.npz")
    expected = {
        False: Evaluator(reference).evaluate([made], labels).metrics,
        True: pixel_metrics((made, labels, None), (real, real_labels, None)),
    }
    for pixels, metrics in expected.items():
        scorer = load_scorer(reference, (12, 12, 3), "made", pixels=pixels)
        scores = scorer.evaluate(iter([made[:7], made[7:8], made[8:]]), labels)
        assert scores.metrics == pytest.approx(metrics, rel=1e-6) and scores.count == 30
        assert "ref.npz: 40 images" in scorer.summary() and scorer.describe(scores)
        with pytest.raises(ValueError, match="16"):
            load_scorer(reference, (16, 16, 3), "made", pixels=pixels)
    with pytest.raises(ValueError, match="made: images of one channel, Inception needs RGB"):
        load_scorer(reference, (12, 12, 1), "made")
