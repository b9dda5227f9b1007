"""Interpolants: derivatives against autograd, conversions against each other and Gaussian data."""

import math

import pytest
import torch

from transport.interpolant import INTERPOLANTS, VP, like

PATHS = list(INTERPOLANTS)
TIMES = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


@pytest.fixture(params=PATHS)
def path(request):
    return INTERPOLANTS[request.param]()


@pytest.mark.golden_family("plan")
def test_plan_is_golden(key, golden, check_golden):
    _, name, what = key.split("/")
    path = INTERPOLANTS[name]()
    method = {"xt": path.x_t, "ut": path.velocity}[what]
    check_golden(key, method(golden("in/t"), golden("in/x0"), golden("in/x1")))


@pytest.mark.parametrize("coefficient", ["alpha", "sigma"])
def test_coefficients_come_with_their_derivative(path, coefficient):
    t = TIMES.clone().requires_grad_()
    value, derivative = getattr(path, coefficient)(t)
    (expected,) = torch.autograd.grad(value.sum(), t)
    torch.testing.assert_close(derivative, expected, rtol=1e-9, atol=1e-12)


def test_alpha_ratio_is_the_logarithmic_derivative_of_alpha(path):
    alpha, d_alpha = path.alpha(TIMES)
    torch.testing.assert_close(path.alpha_ratio(TIMES), d_alpha / alpha, rtol=1e-9, atol=0)


def test_velocity_is_the_time_derivative_of_x_t(path):
    x_0, x_1 = torch.randn(2, len(TIMES), 3, generator=torch.Generator().manual_seed(0)).double()
    h = 1e-5
    finite = (path.x_t(TIMES + h, x_0, x_1) - path.x_t(TIMES - h, x_0, x_1)) / (2 * h)
    torch.testing.assert_close(path.velocity(TIMES, x_0, x_1), finite, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_path_goes_from_noise_at_0_to_data_at_1(name):
    path, x_0, x_1 = INTERPOLANTS[name](), torch.full((1, 2), -3.0), torch.full((1, 2), 2.0)
    # VP never quite loses the data: log alpha_0 = -(20 - 0.1) / 4 - 0.1 / 2
    left_of_data = math.exp(-5.025) if name == "VP" else 0.0
    start = left_of_data * x_1 + math.sqrt(1 - left_of_data**2) * x_0
    torch.testing.assert_close(path.x_t(torch.zeros(1), x_0, x_1), start)
    torch.testing.assert_close(path.x_t(torch.ones(1), x_0, x_1), x_1)


@pytest.mark.parametrize("name", ["GVP", "VP"])
def test_variance_preserving_paths_preserve_the_variance(name):
    path = INTERPOLANTS[name]()
    alpha, sigma = path.alpha(TIMES)[0], path.sigma(TIMES)[0]
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(TIMES))


def test_score_and_velocity_conversions_invert_each_other(path):
    x, v = torch.randn(2, len(TIMES), 2, 3, generator=torch.Generator().manual_seed(0)).double()
    score = path.score_from_velocity(v, x, TIMES)
    torch.testing.assert_close(path.velocity_from_score(score, x, TIMES), v, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", PATHS)
def test_conversions_agree_with_gaussian_data(name, gaussian_flow):
    path, x = INTERPOLANTS[name](), torch.linspace(-2, 2, 75, dtype=torch.float64).reshape(25, 3)
    exact = gaussian_flow(name, "velocity").exact(x, TIMES)
    score, velocity = exact["score"], exact["velocity"]
    for converted, expected in (
        (path.score_from_velocity(velocity, x, TIMES), score),
        (path.score_from_noise(exact["noise"], x, TIMES), score),
        (path.velocity_from_score(score, x, TIMES), velocity),
    ):
        torch.testing.assert_close(converted, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["Linear", "GVP"])
def test_score_from_velocity_at_pure_noise_is_minus_x(name):
    x, v = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    score = INTERPOLANTS[name]().score_from_velocity(v, x, torch.zeros(4))
    torch.testing.assert_close(score, -x)


def test_vp_score_weight_is_the_general_formula_and_finite_at_the_data():
    path = VP()
    sigma, d_sigma = path.sigma(TIMES)
    general = path.alpha_ratio(TIMES) * sigma**2 - sigma * d_sigma
    torch.testing.assert_close(path.score_weight(TIMES), general, rtol=1e-9, atol=0)
    assert path.score_weight(torch.ones(1)).item() == pytest.approx(0.05)  # beta_min / 2


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 4, 8, 8)])
def test_times_take_the_dimensions_of_the_data(shape):
    t = torch.tensor([0.25, 0.75])
    assert like(t, torch.zeros(shape)).shape == (2, *[1] * (len(shape) - 1))
    assert like(t, torch.zeros(shape)).flatten().equal(t)


def test_vp_sigma_keeps_its_digits_near_the_data():
    """It is a difference of numbers near 1 there, and was off by 0.5 % at t = 1 - 1e-5."""
    t = 1 - torch.tensor([1e-5, 1e-4, 1e-3], dtype=torch.float32)
    for value, exact in zip(VP().sigma(t), VP().sigma(t.double()), strict=True):
        torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
