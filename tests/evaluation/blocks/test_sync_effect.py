"""Diagnostics of a step against closed forms."""

import math

import pytest
import torch

from evaluation.blocks.sync_effect import (
    bin_means,
    gradient_products,
    norms_and_angle,
    similarity_by_time,
    time_bins,
    token_rank,
)


def at_cosine(values):
    """Tokens (N, 2, 2) whose cosine with (1, 0) is `values` of each sample."""
    angle = torch.tensor(values).acos()
    student = torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None].repeat(1, 2, 1)
    teacher = torch.tensor([3.0, 0.0]).expand(len(values), 2, 2)
    return student, teacher


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_similarity_falls_into_the_bins_of_its_times(dtype):
    student, teacher = at_cosine([1.0, 0.5, -0.5, 0.25])
    t = torch.tensor([0.05, 0.31, 0.39, 1.0])
    sums = similarity_by_time(student.to(dtype), teacher.to(dtype), t)
    assert sums.shape == (2, 10) and sums.dtype == torch.float64
    assert sums[1].tolist() == [1, 0, 0, 2, 0, 0, 0, 0, 0, 1]
    means = bin_means(sums, "similarity")
    exact = {"similarity_t0.0": 1.0, "similarity_t0.3": 0.0, "similarity_t0.9": 0.25}
    assert means == pytest.approx(exact, abs=1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_batches_are_joined_by_adding():
    student, teacher, t = torch.randn(9, 4, 6), torch.randn(9, 4, 6), torch.rand(9)
    parts = [similarity_by_time(student[i], teacher[i], t[i]) for i in (slice(0, 4), slice(4, 9))]
    whole = similarity_by_time(student, teacher, t)
    torch.testing.assert_close(sum(parts), whole)
    mean = torch.nn.functional.cosine_similarity(student, teacher, dim=-1).mean().item()
    assert (whole[0].sum() / whole[1].sum()).item() == pytest.approx(mean, abs=1e-6)


def test_ends_of_time_are_inside():
    assert time_bins(torch.tensor([0.0, 0.1, 0.999, 1.0]), 10).tolist() == [0, 1, 9, 9]
    assert time_bins(torch.tensor([0.5]), 4).tolist() == [2]


def test_names_of_many_bins_differ():
    assert len(bin_means(torch.ones(2, 100), "s")) == 100
    assert list(bin_means(torch.ones(2, 4), "s")) == [
        "s_t0.000",
        "s_t0.250",
        "s_t0.500",
        "s_t0.750",
    ]


def test_shapes_that_do_not_fit_are_refused():
    x = torch.randn(3, 4, 5)
    for student, teacher, t in ((x, x[:2], torch.rand(3)), (x, x, torch.rand(2)), (x[0], x[0], x)):
        with pytest.raises(ValueError, match=r"expected student and teacher \(N, T, D\)"):
            similarity_by_time(student, teacher, t)
    with pytest.raises(ValueError, match=r"tokens: expected \(N, T, D\)"):
        token_rank(x[0])


def test_token_rank_shows_collapse():
    torch.manual_seed(0)
    spread = torch.randn(64, 16, 8)
    assert token_rank(spread) == pytest.approx(8, rel=0.01)
    line = torch.randn(64, 16, 1) * torch.randn(8)
    assert token_rank(line) == pytest.approx(1, abs=1e-4)
    assert token_rank(torch.ones(4, 4, 8)) == 0
    three = torch.cat([spread[..., :3], torch.zeros(64, 16, 5)], dim=-1)
    assert token_rank(three + 100) == pytest.approx(3, rel=0.01)  # an offset is no spread


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([3.0, 0.0, 4.0], [0.0, 2.0, 0.0], (5, 2, 90)),
        ([3.0, 0.0, 4.0], [6.0, 0.0, 8.0], (5, 10, 0)),
        ([3.0, 0.0, 4.0], [-3.0, 0.0, -4.0], (5, 5, 180)),
        ([1.0, 0.0], [1.0, 3**0.5], (1, 2, 60)),
    ],
)
def test_gradient_norms_and_angle_closed_forms(a, b, expected):
    products = gradient_products(torch.tensor(a), torch.tensor(b))
    assert norms_and_angle(products) == pytest.approx(expected, abs=1e-5)


def test_products_of_parts_are_joined_by_adding():
    a, b = torch.randn(6, 4, 3), torch.randn(6, 4, 3)
    parts = gradient_products(a[:2], b[:2]) + gradient_products(a[2:], b[2:])
    torch.testing.assert_close(parts, gradient_products(a, b))


def test_a_gradient_without_direction_has_no_angle():
    norm_a, norm_b, angle = norms_and_angle(gradient_products(torch.ones(4), torch.zeros(4)))
    assert (norm_a, norm_b) == (2, 0) and math.isnan(angle)
    products = gradient_products(torch.ones(1), torch.tensor([math.nan]))
    assert math.isnan(norms_and_angle(products)[2])
