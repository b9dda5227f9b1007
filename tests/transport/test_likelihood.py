"""Likelihoods against Gaussian densities, and a linear flow through its matrix exponential."""

import itertools
import math

import pytest
import torch

from transport import Sampler, create_transport
from transport.likelihood import bits_per_dimension, standard_normal_log_density

SOLVERS = {"rk4": 1e-5, "dopri5": 1e-4}  # with their tolerance here
GENERATOR = [[0.3, -0.5, 0.2], [0.4, -0.1, 0.0], [-0.2, 0.6, 0.5]]


def log_normal(x, mean, std):
    log_density = torch.distributions.Normal(mean, std).log_prob(x)
    return log_density.flatten(1).sum(dim=1)


def evaluate(transport, x, model, method, **inputs):
    settings = dict(sampling_method=method, num_steps=40, rtol=1e-6)
    return Sampler(transport).sample_ode_likelihood(**settings)(x, model, **inputs)


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("prediction", ["velocity", "score", "noise"])
@pytest.mark.parametrize("path", ["Linear", "GVP", "VP"])
def test_gaussian_flow_has_its_gaussian_density(path, prediction, method, gaussian_flow):
    flow = gaussian_flow(path, prediction)
    x = torch.linspace(-1.5, 2.5, 12, dtype=torch.float64).reshape(3, 1, 2, 2)
    t_0, t_1 = flow.transport.ode_interval()
    # standard-normal noise at t_0, carried to t_1 by an affine map
    zero, one = (flow.transported(torch.tensor(z), t_0, t_1) for z in (0.0, 1.0))
    expected = log_normal(x, zero.double(), (one - zero).double())

    log_density, noise = evaluate(flow.transport, x, flow.model, method)
    torch.testing.assert_close(log_density, expected, rtol=0, atol=SOLVERS[method])
    torch.testing.assert_close(noise, flow.transported(x, t_1, t_0), rtol=0, atol=SOLVERS[method])


def test_data_of_half_precision_has_the_density_of_float32(gaussian_flow):
    flow = gaussian_flow("Linear", "velocity")
    x = torch.linspace(-1, 2, 8).reshape(2, 1, 2, 2)
    x, probe = x.bfloat16(), torch.ones_like(x).bfloat16()
    log_density, noise = evaluate(flow.transport, x, flow.model, "dopri5", probe=probe)
    expected = log_normal(x.float(), 0.5, 0.7)
    torch.testing.assert_close(log_density, expected, rtol=0, atol=0.05)
    assert noise.dtype == torch.bfloat16


def test_density_of_the_data_itself_when_the_interval_is_whole(gaussian_flow):
    flow = gaussian_flow("Linear", "velocity")
    x = torch.linspace(-1, 2, 8, dtype=torch.float64).reshape(2, 1, 2, 2)
    log_density, _ = evaluate(flow.transport, x, flow.model, "rk4")
    expected = log_normal(x, flow.data_mean, flow.data_std)
    torch.testing.assert_close(log_density, expected, rtol=0, atol=1e-5)


def linear_flow(x, t):
    return x @ torch.tensor(GENERATOR, dtype=x.dtype).T


@pytest.mark.parametrize("method", SOLVERS)
def test_linear_flow_averages_over_probes_to_the_matrix_exponential(method):
    a = torch.tensor(GENERATOR, dtype=torch.float64)
    point = torch.tensor([0.7, -1.2, 0.4], dtype=torch.float64)
    probes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    x = point.expand_as(probes)
    log_density, noise = evaluate(create_transport(), x, linear_flow, method, probe=probes)

    covariance = torch.linalg.matrix_exp(a) @ torch.linalg.matrix_exp(a).T
    zero = torch.zeros(3, dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(zero, covariance).log_prob(point)
    # all 8 probes are equally likely, so this mean is the estimator's expectation
    torch.testing.assert_close(log_density.mean(), expected, rtol=0, atol=SOLVERS[method])
    torch.testing.assert_close(
        noise, x @ torch.linalg.matrix_exp(-a).T, rtol=0, atol=SOLVERS[method]
    )


def test_one_probe_is_off_by_the_off_diagonal_of_the_jacobian():
    a = torch.tensor(GENERATOR, dtype=torch.float64)
    probe = torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[0.7, -1.2, 0.4]], dtype=torch.float64)
    log_density, noise = evaluate(create_transport(), x, linear_flow, "rk4", probe=probe)
    expected = log_normal(noise, 0.0, 1.0) - (probe @ a @ probe.T)[0]
    torch.testing.assert_close(log_density, expected, rtol=0, atol=1e-6)


def test_probes_left_out_are_signs_drawn_for_each_sample():
    torch.manual_seed(0)
    a = torch.tensor(GENERATOR, dtype=torch.float64)
    x = torch.zeros(400, 3, dtype=torch.float64)  # stays 0, so only the divergence differs
    log_density, _ = evaluate(create_transport(), x, linear_flow, "midpoint")
    divergence = -1.5 * math.log(2 * math.pi) - log_density
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    possible = torch.einsum("ni,ij,nj->n", signs, a, signs)
    distance = (divergence[:, None] - possible).abs()
    assert distance.min(dim=1).values.max() < 1e-6
    assert (distance.min(dim=0).values < 1e-6).all()  # each turns up in 400
    assert divergence.mean().item() == pytest.approx(
        a.trace().item(), abs=5 * possible.std().item() / math.sqrt(400)
    )


def test_likelihood_of_a_network_is_finite_and_leaves_no_gradient(golden_model, golden):
    x, y = golden("in/x1"), golden("in/y")
    log_density, noise = evaluate(create_transport(), x, golden_model, "euler", y=y)
    assert log_density.shape == (4,) and log_density.isfinite().all()
    assert noise.shape == x.shape
    assert not log_density.requires_grad and not noise.requires_grad
    assert all(p.grad is None for p in golden_model.parameters())


def test_noise_is_where_the_reverse_ode_ends(golden_model, golden):
    x, y = golden("in/x1"), golden("in/y")
    _, noise = evaluate(create_transport(), x, golden_model, "heun2", y=y)
    reverse = Sampler(create_transport()).sample_ode(
        sampling_method="heun2", num_steps=40, reverse=True
    )
    torch.testing.assert_close(noise, reverse(x, golden_model, y=y)[-1], rtol=0, atol=1e-5)


def test_standard_normal_has_half_log2_of_2_pi_e_bits_per_dimension():
    torch.manual_seed(0)
    z = torch.randn(2000, 3, 4, 4)
    bits = bits_per_dimension(standard_normal_log_density(z), 48)
    expected = 0.5 * math.log2(2 * math.pi * math.e)
    # the deviation of z^2 / (2 ln 2) is 1.02 bits; five standard errors of 96,000 values
    assert bits.mean().item() == pytest.approx(expected, abs=5 * 1.02 / math.sqrt(96_000))


def test_log_density_at_the_origin_is_minus_half_log_2_pi_per_dimension():
    log_density = standard_normal_log_density(torch.zeros(2, 3, 5))
    torch.testing.assert_close(log_density, torch.full((2,), -7.5 * math.log(2 * math.pi)))
    one_bit = bits_per_dimension(torch.tensor([-10 * math.log(2)]), 10)
    torch.testing.assert_close(one_bit, torch.ones(1))
