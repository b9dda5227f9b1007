"""Metrics against golden values, closed forms and transcriptions of their formulas."""

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

from evaluation import frechet_distance, inception_score, precision_recall, statistics

golden = np.load(Path(__file__).parents[1] / "golden" / "eval_small.npz")
rng = np.random.default_rng(0)


def test_golden_frechet_distance():
    reference = statistics(golden["ref"])
    assert frechet_distance(*reference, *statistics(golden["gen"])) == pytest.approx(
        golden["fid"], rel=1e-6
    )
    assert frechet_distance(*reference, *statistics(golden["gen"][:20])) == pytest.approx(
        golden["fid_first20"], rel=1e-3
    )


def test_golden_inception_score():
    assert inception_score(golden["probs"], 100) == pytest.approx(golden["is_split100"], rel=1e-5)
    assert inception_score(golden["probs"]) == pytest.approx(golden["is_split5000"], rel=1e-5)


def test_golden_precision_recall():
    found = precision_recall(golden["ref"], golden["gen"], k=3)
    assert found == (golden["precision"], golden["recall"])


def test_statistics_are_numpys():
    features = rng.normal(size=(50, 7)).astype(np.float32)
    mean, covariance = statistics(features)
    centred = features.astype(np.float64) - features.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(mean, features.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(covariance, centred.T @ centred / 49, rtol=1e-12, atol=1e-15)


def test_commuting_covariances_have_a_closed_form():
    """|mu_1 - mu_2|^2 + sum (s_1 - s_2)^2 in a common eigenbasis."""
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    s1, s2 = rng.uniform(0, 2, (2, 6))
    mu1, mu2 = rng.normal(size=(2, 6))
    expected = np.square(mu1 - mu2).sum() + np.square(s1 - s2).sum()
    covariances = [(basis * s**2) @ basis.T for s in (s1, s2)]
    found = frechet_distance(mu1, covariances[0], mu2, covariances[1])
    assert found == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_equals_the_matrix_root_formula():
    a, b = rng.normal(size=(80, 9)), rng.normal(size=(70, 9)) @ rng.normal(size=(9, 9))
    (m1, s1), (m2, s2) = statistics(a), statistics(b)
    expected = np.square(m1 - m2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_is_symmetric_zero_for_itself_and_finite_without_rank():
    a, b = statistics(rng.normal(size=(5, 30))), statistics(rng.normal(size=(6, 30)))
    assert frechet_distance(*a, *b) == pytest.approx(frechet_distance(*b, *a), rel=1e-6)
    assert frechet_distance(*a, *a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(*a, *b) > 0


def test_bad_statistics_are_refused():
    mean, covariance = statistics(rng.normal(size=(9, 3)))
    with pytest.raises(ValueError, match=r"\(3,\), \(3, 3\) and \(2,\)"):
        frechet_distance(mean, covariance, mean[:2], covariance)
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(mean * np.nan, covariance, mean, covariance)
    with pytest.raises(ValueError, match="N >= 2"):
        statistics(np.zeros((1, 3)))


def test_inception_score_closed_forms():
    certain = np.eye(4)[np.arange(400) % 4]
    assert inception_score(certain) == pytest.approx(4)  # K equally frequent certain classes
    assert inception_score(np.full((10, 4), 0.25)) == pytest.approx(1)
    ordered = np.sort(np.arange(400) % 4)
    assert inception_score(np.eye(4)[ordered], split_size=100) == pytest.approx(1)


def test_inception_score_equals_its_formula():
    probs = rng.dirichlet(np.ones(5), size=23)
    scores = []
    for part in (probs[:10], probs[10:20], probs[20:]):
        kl = [
            sum(p * np.log(p / q) for p, q in zip(row, part.mean(0), strict=True)) for row in part
        ]
        scores.append(np.exp(np.mean(kl)))
    assert inception_score(probs, split_size=10) == pytest.approx(np.mean(scores), rel=1e-10)


def covered(centers, points, k):
    """Direct transcription: is a point within the k-th neighbour's distance of some centre?"""
    hits = 0
    for point in points:
        for center in centers:
            distances = sorted(np.linalg.norm(other - center) for other in centers)
            if np.linalg.norm(point - center) <= distances[k]:
                hits += 1
                break
    return hits / len(points)


def test_precision_recall_equal_their_definition():
    a, b = rng.normal(size=(25, 4)), 0.5 * rng.normal(size=(30, 4)) + 0.9
    expected = covered(a, b, 3), covered(b, a, 3)
    assert precision_recall(a, b) == pytest.approx(expected)
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1


def test_precision_recall_closed_forms():
    a = rng.normal(size=(40, 3))
    assert precision_recall(a, a) == (1, 1)
    assert precision_recall(a, a + 100) == (0, 0)


def test_precision_recall_does_not_depend_on_blocks(monkeypatch):
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(41, 4))
    whole = precision_recall(a, b)
    monkeypatch.setattr("evaluation.manifold.BLOCK", 7 * 50)
    assert precision_recall(a, b) == whole


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="generated: 3 samples, k = 3 needs at least 4"):
        precision_recall(rng.normal(size=(9, 2)), rng.normal(size=(3, 2)))
