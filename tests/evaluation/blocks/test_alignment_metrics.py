"""CKA, CKNNA and mutual neighbours against golden values, closed forms and whole kernels."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.blocks.alignment_metrics import (
    CKASums,
    cka,
    cka_of,
    cknna,
    clamped,
    masked_hsic,
    mutual_knn,
    neighbours,
    normalised,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "alignment_small.npz"
EPS = 1e-6  # which the golden code adds to its denominators


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def features(golden, form):
    pair = golden["in/a"], golden["in/b"]
    return [normalised(clamped(x) if form == "clamped" else x) for x in pair]


def own_hsics(a, b, unbiased):
    sums = [CKASums(), CKASums(), CKASums()]
    for one, (x, y) in zip(sums, ((a, b), (a, a), (b, b)), strict=True):
        one.add(x, y)
    return [one.hsic(unbiased) for one in sums]


@pytest.mark.parametrize("form", ["raw", "clamped"])
def test_golden_values(golden, form):
    a, b = features(golden, form)
    n = len(a)
    for name, unbiased, scale in (("cka", False, (n - 1) ** 2), ("unbiased_cka", True, 1)):
        cross, k, l = (scale * h for h in own_hsics(a, b, unbiased))  # noqa: E741
        expected = golden[f"{form}/{name}"].item()
        assert cross / (math.sqrt(k * l) + EPS) == pytest.approx(expected, rel=1e-5)
        assert cka(a, b, unbiased) == pytest.approx(cross / math.sqrt(k * l), rel=1e-9)
    for k in (5, 10):
        assert mutual_knn(*nearest(a, b, k)) == pytest.approx(
            golden[f"{form}/mutual_knn{k}"].item()
        )
        own = [masked_hsic(whole, whole) for whole in (x.kernel() for x in nearest(a, b, k))]
        root = math.sqrt(own[0] * own[1])
        actual = cknna(*nearest(a, b, k)) * root / (root + EPS)
        assert actual == pytest.approx(golden[f"{form}/cknna{k}"].item(), rel=1e-5)


def nearest(a, b, k=10):
    return neighbours(a, k), neighbours(b, k)


def test_same_rotated_scaled_and_independent_features():
    a = torch.randn(400, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    for b in (a, 3 * a @ rotation + 5):
        for unbiased in (True, False):
            assert cka(a, b, unbiased) == pytest.approx(1, abs=1e-9)
    rotated = nearest(a, a @ rotation)
    assert cknna(*rotated) == pytest.approx(1) and mutual_knn(*rotated) == 1
    other = torch.randn(400, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert abs(cka(a, other)) < 0.03 < cka(a, other, unbiased=False)  # biased is above 0
    assert mutual_knn(*nearest(a, other)) == pytest.approx(10 / 399, abs=0.01)
    assert math.isnan(cka(torch.ones(5, 2), a[:5]))


def test_kernels_written_out():
    """Unbiased HSIC of whole kernels, from which the sums over samples spare us."""
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(30, d, dtype=torch.float64, generator=random) + 1 for d in (4, 6))
    k, l = (x @ x.T for x in (a, b))  # noqa: E741
    n, ones = 30, torch.ones(30, dtype=torch.float64)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    assert own_hsics(a, b, False)[0] == pytest.approx(
        (k @ centre @ l @ centre).trace().item() / (n - 1) ** 2
    )
    for kernel in (k, l):
        kernel.fill_diagonal_(0)
    expected = (
        (k @ l).trace()
        + k.sum() * l.sum() / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (ones @ k @ l @ ones)
    ) / (n * (n - 3))
    assert own_hsics(a, b, True)[0] == pytest.approx(expected.item())


def test_batches_and_blocks_of_rows_change_nothing():
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(50, d, generator=random) for d in (4, 6))
    sums = [CKASums() for _ in range(3)]
    for part in (slice(0, 1), slice(1, 30), slice(30, 50)):
        for one, (x, y) in zip(sums, ((a, b), (a, a), (b, b)), strict=True):
            one.add(x[part], y[part])
    assert cka_of(*sums) == pytest.approx(cka(a, b), rel=1e-9)
    for rows in (1, 7, 50):
        assert torch.equal(neighbours(a, 3, rows).numbers, neighbours(a, 3).numbers)
    with pytest.raises(ValueError, match="5 images have no 5 neighbours"):
        neighbours(a[:5], 5)
