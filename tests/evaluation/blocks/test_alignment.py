"""Alignment of features against golden values, dense formulas and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.blocks import alignment
from evaluation.blocks.alignment import (
    CLAMP,
    LinearCKA,
    Neighbours,
    check_rows,
    cka,
    cknna,
    mutual_knn,
    normalise,
)

EPS = 1e-6  # that the code behind the golden file adds to denominators


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[2] / "golden" / "alignment_small.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rotation(generator, width):
    return torch.linalg.qr(normal(generator, width, width)).Q


@pytest.mark.parametrize("rows", [7, 512])
@pytest.mark.parametrize(("kind", "clamp"), [("raw", None), ("clamped", CLAMP)])
def test_values_are_those_of_the_authors(golden, kind, clamp, rows, monkeypatch):
    monkeypatch.setattr(alignment, "ROWS", rows)
    a, b = (normalise(golden[f"in/{name}"].double(), clamp) for name in "ab")
    found = dict(zip(("unbiased_cka", "cka"), cka(a, b, EPS), strict=True))
    for k in (5, 10):
        sets = Neighbours.of(a, k), Neighbours.of(b, k)
        found |= {f"cknna{k}": cknna(*sets, EPS), f"mutual_knn{k}": mutual_knn(*sets)}
    for name, value in found.items():
        assert value == pytest.approx(golden[f"{kind}/{name}"].item(), rel=1e-5), name


def dense_unbiased(k, m):
    n = len(k)
    k, m = (matrix - matrix.diagonal().diag() for matrix in (k, m))
    one = torch.ones(n, dtype=k.dtype)
    value = (k @ m).trace() + k.sum() * m.sum() / (n - 1) / (n - 2)
    return ((value - 2 * (one @ k @ m @ one) / (n - 2)) / n / (n - 3)).item()


def dense_biased(k, m):
    n = len(k)
    centre = torch.eye(n, dtype=k.dtype) - 1 / n
    return (k @ centre @ m @ centre).trace().item() / (n - 1) ** 2


def test_cka_from_batches_is_that_of_the_matrices_whatever_the_lengths(generator):
    xs, ys = ([normal(generator, 40, d) + 1 for d in widths] for widths in ((6, 5), (3, 9, 6)))
    ys[0] = ys[0] + xs[0][:, :3]
    sums = LinearCKA(2, 3)
    for rows in (slice(0, 7), slice(7, 30), slice(30, 40)):
        sums.add([x[rows] for x in xs], [y[rows] for y in ys])
    for name, formula in {"unbiased": dense_unbiased, "biased": dense_biased}.items():
        found = sums.values()[name]
        for i, x in enumerate(xs):
            for j, y in enumerate(ys):
                k, m = x @ x.T, y @ y.T
                expected = formula(k, m) / (formula(k, k) * formula(m, m)) ** 0.5
                assert found[i, j].item() == pytest.approx(expected, rel=1e-9)


class Listing:
    """Keeps what a process gives to sums over all of them."""

    def __init__(self):
        self.seen = []

    def sum(self, tensor):
        self.seen.append(tensor)
        return tensor


class Joined:
    """The sums of this process and of one that gave the listed ones."""

    def __init__(self, theirs):
        self.theirs = iter(theirs)

    def sum(self, tensor):
        return tensor + next(self.theirs)


def test_sums_of_two_processes_add_up(generator):
    x, y = normal(generator, 30, 4), normal(generator, 30, 5)
    parts = [LinearCKA(1, 1), LinearCKA(1, 1)]
    for part, rows in zip(parts, (slice(0, 11), slice(11, 30)), strict=True):
        part.add([x[rows]], [y[rows]])
    listing = Listing()
    parts[1].values(listing)
    both = parts[0].values(Joined(listing.seen))
    found = both["unbiased"].item(), both["biased"].item()
    assert found == pytest.approx(cka(x, y), rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_rotated_and_scaled_features_are_the_same(generator, scale):
    x = normal(generator, 60, 8)
    y = scale * x @ rotation(generator, 8)
    assert cka(x, y) == pytest.approx((1, 1), rel=1e-9)
    sets = [Neighbours.of(normalise(z), 5) for z in (x, y)]
    assert cknna(*sets) == pytest.approx(1, rel=1e-9)
    assert mutual_knn(*sets) == 1


def test_independent_features_are_at_chance(generator):
    n, k = 800, 10
    x, y = normal(generator, n, 8), normal(generator, n, 16)
    unbiased, biased = cka(x, y)
    assert abs(unbiased) < 0.01 < biased  # the biased one is positive for any finite set
    sets = [Neighbours.of(normalise(z), k) for z in (x, y)]
    deviation = (k / n / n / k) ** 0.5
    assert mutual_knn(*sets) == pytest.approx(k / (n - 1), abs=5 * deviation)
    assert abs(cknna(*sets)) < 0.05


def test_masked_hsic_is_that_of_the_masked_matrices(generator):
    x, y = (normalise(normal(generator, 25, d)) for d in (4, 6))
    a, b = Neighbours.of(x, 6), Neighbours.of(y, 6)
    mask = torch.zeros(25, 25, dtype=torch.float64).scatter_(1, a.indices, 1)
    mask = mask * torch.zeros_like(mask).scatter_(1, b.indices, 1)
    assert not mask.equal(mask.T)
    expected = dense_unbiased(mask * (x @ x.T), mask * (y @ y.T))
    assert alignment.masked_hsic(a, b) == pytest.approx(expected, rel=1e-9)


def test_sets_without_spread_or_common_neighbours_give_no_nan(generator):
    assert cka(torch.ones(9, 3), normal(generator, 9, 2))[1] == 0
    line = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    a, b = Neighbours.of(line, 1), Neighbours.of(line[[0, 2, 1, 3]], 1)
    assert mutual_knn(a, b) == 0 and cknna(a, b) == 0


def test_too_few_and_too_many_images_are_refused():
    for n, k in ((10, 10), (10, 0), (60_000, 10)):
        with pytest.raises(ValueError, match="rows of features"):
            check_rows(n, k)
