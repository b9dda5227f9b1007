"""Metrics against golden values, closed forms and transcriptions of their formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

import evaluation
from evaluation import frechet_distance, inception_score, precision_recall, statistics
from evaluation.bootstrap import deviations, weighted_statistics
from evaluation.metric_inception_score import sorted_by_class
from evaluation.metric_precision_recall import Points
from evaluation.moments import Moments
from evaluation.scoring import kernel_distance

golden = np.load(Path(__file__).parents[1] / "golden" / "eval_small.npz")
rng = np.random.default_rng(0)


@pytest.mark.filterwarnings("ignore:.*samples for")
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
    actual = precision_recall(golden["ref"], golden["gen"], k=3)
    assert actual == (golden["precision"], golden["recall"])


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
    actual = frechet_distance(mu1, covariances[0], mu2, covariances[1])
    assert actual == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_equals_the_matrix_root_formula():
    a, b = rng.normal(size=(80, 9)), rng.normal(size=(70, 9)) @ rng.normal(size=(9, 9))
    (m1, s1), (m2, s2) = statistics(a), statistics(b)
    expected = np.square(m1 - m2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-8)


@pytest.mark.filterwarnings("ignore:.*samples for")
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
    for wrong in (-covariance, covariance + np.triu(np.ones((3, 3)), 1)):
        with pytest.raises(ValueError, match="not symmetric, or has a variance below 0"):
            frechet_distance(mean, covariance, mean, wrong)
    rounded = covariance.astype(np.float16)
    assert frechet_distance(mean, covariance, mean, rounded) < 1e-3
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
    monkeypatch.setattr("evaluation.metric_precision_recall.BLOCK", 7 * 50)
    assert precision_recall(a, b) == whole


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="generated: 3 samples, k = 3 needs at least 4"):
        precision_recall(rng.normal(size=(9, 2)), rng.normal(size=(3, 2)))
    with pytest.raises(ValueError, match="k 0: the number of a neighbour"):
        precision_recall(rng.normal(size=(9, 2)), rng.normal(size=(9, 2)), k=0)


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 0, 13, 40], [59, 1]])
def test_moments_do_not_depend_on_batches(sizes):
    features = 100 + np.random.default_rng(1).normal(size=(60, 5)).astype(np.float32)
    moments = Moments(5)
    for part in torch.from_numpy(features).split(sizes):
        if len(part):
            moments.add(part)
    for actual, expected in zip(moments.statistics(), statistics(features), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_moments_of_processes_join():
    features = torch.from_numpy(np.random.default_rng(1).normal(size=(60, 5)))
    whole, joined, empty = Moments(5), Moments(5), Moments(5)
    whole.add(features)
    for part in features.split([11, 49]):
        other = Moments(5)
        other.add(part)
        joined.merge(other)
    joined.merge(empty)
    assert joined.count == 60
    for actual, expected in zip(joined.statistics(), whole.statistics(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


def test_few_samples_warn():
    with pytest.warns(UserWarning, match="5 samples for 30 dimensions"):
        statistics(rng.normal(size=(5, 30)))


@pytest.mark.filterwarnings("ignore:.*samples for")
def test_rank_deficient_distance_is_exact():
    """Covariances of rank 4 in 300 dimensions, equal but for a factor: (1 - 3)^2 tr S."""
    features = np.random.default_rng(1).normal(size=(5, 300))
    mean, covariance = statistics(features)
    actual = frechet_distance(mean, covariance, mean, 9 * covariance)
    assert actual == pytest.approx(4 * np.trace(covariance), rel=1e-9)


def half_distances(a, b):
    """ADM's formula in NumPy's float16: every operation rounds, sums over D are float32."""
    a, b = a.astype(np.float16), b.astype(np.float16)
    norms = [np.square(x).astype(np.float32).sum(1).astype(np.float16) for x in (a, b)]
    products = (a.astype(np.float32) @ b.astype(np.float32).T).astype(np.float16)
    distances = (norms[0][:, None] - np.float16(2) * products) + norms[1]
    return np.maximum(distances, np.float16(0)).astype(np.float32)


def test_half_precision_recall_is_adms():
    random = np.random.default_rng(1)
    a = random.normal(4, 1, size=(120, 16)).astype(np.float32)
    b = random.normal(4.2, 0.9, size=(150, 16)).astype(np.float32)
    radii = [np.sort(half_distances(x, x), axis=1)[:, 3] for x in (a, b)]
    distances = half_distances(a, b)
    precision = (distances <= radii[0][:, None]).any(axis=0).mean()
    recall = (distances <= radii[1]).any(axis=1).mean()
    assert precision_recall(a, b, dtype="float16") == pytest.approx((precision, recall), abs=1e-12)
    assert precision_recall(a, b) != precision_recall(a, b, dtype="float16")


@pytest.mark.filterwarnings("ignore:.*encountered in")
def test_half_precision_falls_back_where_it_overflows():
    random = np.random.default_rng(1)
    a, b = 100 * random.normal(size=(2, 60, 16)).astype(np.float32)
    assert not np.isfinite(half_distances(a, b)).all()
    assert precision_recall(a, b, dtype="float16") == precision_recall(a, b)


def test_features_that_are_not_finite_are_refused():
    a, b = rng.normal(size=(2, 9, 2))
    b[3, 1] = np.nan
    with pytest.raises(ValueError, match="generated: features hold values that are not finite"):
        precision_recall(a, b)
    with pytest.raises(ValueError, match="dtype bfloat16: choose from float16, float32"):
        precision_recall(a, a, dtype="bfloat16")
    with pytest.raises(ValueError, match="not finite"):
        inception_score(np.full((4, 2), np.nan))


def test_names_that_the_package_has_not_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'evaluation' has no attribute 'fid'"):
        evaluation.fid  # noqa: B018


def test_predictions_of_another_shape_are_refused():
    for probs in (np.full(4, 0.25), np.empty((0, 4))):
        with pytest.raises(ValueError, match=r"must be \(N, K\) with N >= 1, they are \("):
            inception_score(probs)
    with pytest.raises(ValueError, match="split_size 0: at least 1"):
        inception_score(np.full((4, 2), 0.5), split_size=0)
    for logits in (rng.normal(size=(9, 4)), np.ones((9, 4))):
        with pytest.raises(ValueError, match=r"rows that sum to 1, .*take the softmax"):
            inception_score(logits)


def test_sorted_classes_are_noticed():
    random = np.random.default_rng(0).integers(0, 1000, 50_000)
    assert sorted_by_class(np.sort(random))
    assert sorted_by_class(np.repeat(random, 4))  # four of a class at a time
    assert not sorted_by_class(random)
    assert not sorted_by_class(np.arange(50_000) % 1000)  # each split has every class
    assert not sorted_by_class(np.zeros(100, int))  # one class has no order
    assert not sorted_by_class(random[:1])


def test_weighted_statistics_are_those_of_repeated_rows(monkeypatch):
    monkeypatch.setattr("evaluation.bootstrap.ROWS", 7)
    features = 50 + np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    counts = np.random.default_rng(2).integers(0, 4, 30)
    actual = weighted_statistics(features, counts, "cpu")
    for ours, expected in zip(actual, statistics(np.repeat(features, counts, axis=0)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)


def test_bootstrap_deviation_is_that_of_a_mean():
    """With the first mean as `distance`, its standard error is known: std / sqrt(N)."""
    features = np.random.default_rng(1).normal(size=(400, 2)).astype(np.float32)
    probs = np.random.default_rng(2).dirichlet(np.ones(5), size=400)
    actual = deviations(features, probs, lambda mean, covariance: mean[0], 400)
    assert actual["fid"] == pytest.approx(features[:, 0].std() / 20, rel=0.15)
    assert 0 < actual["inception_score"] < 0.2


def test_kernel_distance_equals_its_formula():
    """Unbiased MMD^2 with (x y / D + 1)^3; below 1,000 samples every subset is the whole set."""
    random = np.random.default_rng(1)
    a, b = random.normal(size=(40, 8)), random.normal(0.3, 1, size=(40, 8))

    def kernel(x, y):
        return (x @ y.T / 8 + 1) ** 3

    def mean_off_diagonal(k):
        return (k.sum() - np.trace(k)) / (40 * 39)

    expected = mean_off_diagonal(kernel(a, a)) + mean_off_diagonal(kernel(b, b))
    expected -= 2 * kernel(a, b).mean()
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-8)


def nuclear_norm_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The distance from centred features: tr (S_1 S_2)^(1/2) is the nuclear norm of X_1 X_2',
    taken by way of their triangular factors, which have its singular values."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    means = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    a, b = (x - x.mean(axis=0) for x in (a, b))
    factors = [np.linalg.qr(x, mode="r") / np.sqrt(len(x) - 1) for x in (a, b)]
    cross = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    return means + sum(np.square(r).sum() for r in factors) - 2 * cross


def skewed_features(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Variances over many orders of magnitude, as those of Inception's pool features."""
    random = np.random.default_rng(seed)
    spread = np.geomspace(1e-9, 60, dimensions)
    return (random.normal(size=(count, dimensions)) * np.sqrt(spread)).astype(np.float32)


@pytest.mark.parametrize(
    ("count", "dimensions"), [(330, 256), pytest.param(2600, 2048, marks=pytest.mark.slow)]
)
def test_small_eigenvalues_of_full_rank_are_not_dropped(count, dimensions):
    a, b = (skewed_features(count, dimensions, seed) for seed in (1, 2))
    actual = frechet_distance(*statistics(a), *statistics(b))
    assert actual == pytest.approx(nuclear_norm_distance(a, b), abs=1e-7)


@pytest.mark.parametrize("counts", [(50, 60), (50, 300), (100, 101), (300, 50)])
@pytest.mark.filterwarnings("ignore:.*samples for")
def test_covariances_without_rank_are_exact(counts):
    a, b = (skewed_features(count, 100, count + 3) for count in counts)
    actual = frechet_distance(*statistics(a), *statistics(b))
    assert actual == pytest.approx(nuclear_norm_distance(a, b), abs=1e-7)


def test_distances_are_exact_float32_whatever_training_set(monkeypatch):
    """TF32, which training switches on, keeps 10 bits of a feature."""
    matmul, cudnn, seen = torch.backends.cuda.matmul, torch.backends.cudnn, []
    original, before = Points.distances, matmul.allow_tf32

    def look(self, *args):
        seen.append((matmul.allow_tf32, cudnn.allow_tf32))
        return original(self, *args)

    monkeypatch.setattr(Points, "distances", look)
    matmul.allow_tf32 = True
    try:
        precision_recall(rng.normal(size=(9, 3)), rng.normal(size=(8, 3)), dtype="float32")
        assert seen and set(seen) == {(False, False)}
        assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before
