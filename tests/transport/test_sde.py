"""Reverse SDEs: golden values, and the exact moments of Gaussian data, free of sampling error.

Gaussian data make the drift affine, so a sample is its mean plus a sum over the draws, each times a
response. Giving every sample of a batch one unit draw of its own yields all responses at once, and
with them the mean and the standard deviation that infinitely many samples would have.
"""

import math

import pytest
import torch

from transport import Sampler, create_transport
from transport.diffusion import DIFFUSION_FORMS, diffusion
from transport.interpolant import INTERPOLANTS
from transport.sde import LAST_STEPS, SDE_STEPS

PATHS = ["Linear", "GVP", "VP"]
FORMS = list(DIFFUSION_FORMS)


def response_moments(flow, num_steps, **settings):
    """Mean and standard deviation of the samples over standard-normal z and draws."""
    draws = num_steps  # z, and the noise of num_steps - 1 grid steps
    unit = torch.eye(draws + 1, dtype=torch.float64).reshape(draws + 1, draws + 1, 1, 1, 1)
    sample = Sampler(flow.transport).sample_sde(num_steps=num_steps, **settings)
    ends = sample(unit[0], flow.model, noise=lambda i: unit[i + 1])[-1].flatten()
    mean = ends[-1]  # the sample that drew nothing
    return mean.item(), (ends - mean).norm().item()


def moments_after(flow, last_step, form, size=0.04):
    """Return what the last step makes of the exact law at t_1."""
    if last_step is None:
        return flow.moments(1.0)
    t = torch.tensor(1 - size, dtype=torch.float64)
    mean, std = flow.moments(t.item())
    alpha, d_alpha, sigma_squared, half = flow.coefficients(t)
    if last_step == "Tweedie":  # E[x_1 | x_t] regresses x_1 on x_t
        return flow.data_mean, (alpha * flow.data_std**2 / std).item()
    half_d_variance = alpha * d_alpha * flow.data_std**2 + half
    sigma, w = sigma_squared.sqrt(), 0.0
    if last_step == "Mean":
        beta_half = d_alpha / alpha
        w = {
            "constant": 1.0,
            "SBDM": beta_half * sigma_squared - half,
            "sigma": sigma,
            "linear": 1 - t,
            "decreasing": (1 + (math.pi * t).cos()) ** 2 / 4,
            "increasing-decreasing": (math.pi * t).sin() ** 2,
        }[form]
    slope = (half_d_variance - w) / std**2  # of the drift in x
    return (mean + d_alpha * flow.data_mean * size).item(), (std * (1 + slope * size)).item()


@pytest.mark.golden_family("sde")
def test_sde_sample_is_golden(key, golden, check_golden, golden_model):
    _, path, prediction, method, form, last_step = key.split("/")
    draws = golden("sde/noise")
    sample = Sampler(create_transport(path, prediction)).sample_sde(
        sampling_method=method,
        diffusion_form=form,
        last_step=None if last_step == "None" else last_step,
        last_step_size=0.04,
        num_steps=8,
    )
    states = sample(golden("in/x0"), golden_model, noise=lambda i: draws[i], y=golden("in/y"))
    check_golden(key, states[-1])


@pytest.mark.golden_family("diffusion")
def test_diffusion_is_golden(key, golden):
    _, path, form = key.split("/")
    actual = diffusion(INTERPOLANTS[path](), form, 1.0, golden("in/x1"), golden("in/t"))
    assert actual.shape == (4, 1, 1, 1)
    torch.testing.assert_close(actual.double(), golden(key).double().expand(4, 1, 1, 1))


def test_forms_are_scaled_by_the_norm():
    path, t, x = INTERPOLANTS["Linear"](), torch.linspace(0.1, 1, 10), torch.zeros(10, 1)
    expected = {
        "constant": torch.full((10,), 3.0),
        "SBDM": 3 * (1 - t) / t,
        "sigma": 3 * (1 - t),
        "linear": 3 * (1 - t),
        "decreasing": (3 * (math.pi * t).cos() + 1) ** 2 / 4,
        "increasing-decreasing": 3 * (math.pi * t).sin() ** 2,
    }
    assert set(expected) == set(FORMS)
    for form, values in expected.items():
        w = diffusion(path, form, 3.0, x, t)
        torch.testing.assert_close(w.flatten(), values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("last_step", LAST_STEPS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", SDE_STEPS)
@pytest.mark.parametrize("path", PATHS)
def test_every_solver_and_form_reaches_the_law_of_the_data(
    path, method, form, last_step, gaussian_flow
):
    flow = gaussian_flow(path, "velocity")
    settings = dict(sampling_method=method, diffusion_form=form, last_step=last_step)
    mean, std = response_moments(flow, 60, **settings)
    expected_mean, expected_std = moments_after(flow, last_step, form)
    assert mean == pytest.approx(expected_mean, abs=0.01)
    assert std == pytest.approx(expected_std, abs=0.015)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", SDE_STEPS)
@pytest.mark.parametrize("prediction", ["score", "noise"])
@pytest.mark.parametrize("path", PATHS)
def test_every_prediction_reaches_the_law_of_the_data(
    path, prediction, method, form, gaussian_flow
):
    flow = gaussian_flow(path, prediction)
    settings = dict(sampling_method=method, diffusion_form=form, last_step="Euler")
    mean, std = response_moments(flow, 60, **settings)
    expected_mean, expected_std = moments_after(flow, "Euler", form)
    assert mean == pytest.approx(expected_mean, abs=0.01)
    assert std == pytest.approx(expected_std, abs=0.015)


@pytest.mark.parametrize("last_step", ["Mean", "Tweedie", "Euler"])
def test_a_short_last_step_leaves_the_mean_and_deviation_of_the_data(last_step, gaussian_flow):
    flow = gaussian_flow("Linear", "velocity")
    settings = dict(diffusion_form="sigma", last_step=last_step, last_step_size=0.01)
    mean, std = response_moments(flow, 250, sampling_method="Heun", **settings)
    assert (mean, std) == pytest.approx((flow.data_mean, flow.data_std), abs=0.002)


@pytest.mark.parametrize("form", ["constant", "sigma", "decreasing"])
def test_the_law_is_reached_at_first_order_in_the_step(form, gaussian_flow):
    flow = gaussian_flow("GVP", "velocity")
    settings = dict(sampling_method="Euler", diffusion_form=form, last_step="Euler")
    _, expected = moments_after(flow, "Euler", form)

    def error(steps):
        return abs(response_moments(flow, steps + 1, **settings)[1] - expected)

    assert error(100) / error(200) == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("method", SDE_STEPS)
def test_random_draws_give_the_law_of_the_data(method, gaussian_flow):
    torch.manual_seed(0)
    flow, n = gaussian_flow("Linear", "velocity"), 4096
    settings = dict(sampling_method=method, diffusion_form="linear", num_steps=60)
    end = Sampler(flow.transport).sample_sde(**settings)(torch.randn(n, 1, 2, 2), flow.model)[-1]
    expected_mean, expected_std = moments_after(flow, "Mean", "linear")
    # four standard errors of 4 n values, and the discretisation error of 60 steps
    slack = 4 * flow.data_std / math.sqrt(4 * n)
    assert end.mean().item() == pytest.approx(expected_mean, abs=slack + 0.001)
    assert end.std().item() == pytest.approx(expected_std, abs=slack / math.sqrt(2) + 0.008)
    between = torch.corrcoef(end.flatten(1).T).fill_diagonal_(0)  # each coordinate draws its own
    assert between.abs().max() < 5 / math.sqrt(n)


@pytest.mark.parametrize("method", SDE_STEPS)
@pytest.mark.parametrize("path", ["Linear", "GVP"])
def test_sbdm_with_velocity_prediction_is_finite(path, method, golden_model, golden):
    sample = Sampler(create_transport(path)).sample_sde(
        sampling_method=method, diffusion_form="SBDM", num_steps=10
    )
    states = sample(golden("in/x0"), golden_model, y=golden("in/y"))
    assert all(state.isfinite().all() for state in states)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", FORMS)
def test_heun_without_last_step_is_finite_at_the_end(path, form, golden_model, golden):
    sample = Sampler(create_transport(path)).sample_sde(
        sampling_method="Heun", diffusion_form=form, last_step=None, num_steps=10
    )
    end = sample(golden("in/x0"), golden_model, y=golden("in/y"))[-1]
    assert end.isfinite().all()


@pytest.mark.parametrize("method", ["Euler", "Heun"])
def test_noise_of_half_precision_is_solved_in_float32(method, gaussian_flow):
    """Times of eight bits reached t = 1, where the score is 0 / 0."""
    flow = gaussian_flow("Linear", "velocity")
    z = torch.linspace(-2, 2, 8).reshape(2, 1, 2, 2)
    settings = dict(sampling_method=method, diffusion_form="sigma", last_step=None, num_steps=250)
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(249, *z.shape, generator=generator).bfloat16()
        solver = Sampler(flow.transport).sample_sde(**settings)
        end = solver(z.to(dtype), flow.model, noise=lambda step, all=draws: all[step])[-1]
        assert end.dtype == dtype
        ends.append(end.float())
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0.05)


def test_no_diffusion_leaves_the_ode(gaussian_flow):
    flow = gaussian_flow("GVP", "velocity")
    z = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(2, 1, 2, 2)
    settings = dict(diffusion_form="sigma", diffusion_norm=0.0, last_step=None, num_steps=20)
    sde = Sampler(flow.transport).sample_sde(sampling_method="Heun", **settings)(z, flow.model)
    expected = flow.transported(z, 0, 1)
    torch.testing.assert_close(sde[-1], expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("last_step", LAST_STEPS)
@pytest.mark.parametrize(("method", "per_step"), [("Euler", 1), ("Heun", 2)])
def test_num_steps_counts_states_and_draws_come_in_order(
    method, per_step, last_step, gaussian_flow
):
    flow, z, asked = gaussian_flow("Linear", "velocity"), torch.zeros(2, 1, 2, 2), []

    def noise(step):
        asked.append(step)
        return torch.ones_like(z)

    settings = dict(sampling_method=method, diffusion_form="sigma", last_step=last_step)
    states = Sampler(flow.transport).sample_sde(num_steps=9, **settings)(z, flow.model, noise=noise)
    assert len(states) == 9
    assert asked == list(range(8))
    assert len(flow.times) == 8 * per_step + (last_step is not None)
    assert all(state.shape == z.shape and state.dtype == z.dtype for state in states)


@pytest.mark.parametrize("last_step", LAST_STEPS)
@pytest.mark.parametrize("method", SDE_STEPS)
def test_two_grid_points_are_one_step(method, last_step, gaussian_flow):
    flow = gaussian_flow("Linear", "velocity")
    settings = dict(sampling_method=method, diffusion_form="sigma", last_step=last_step)
    sample = Sampler(flow.transport).sample_sde(num_steps=2, **settings)
    states = sample(torch.zeros(2, 1, 2, 2), flow.model, noise=lambda i: torch.zeros(2, 1, 2, 2))
    assert len(states) == 2
    assert all(state.isfinite().all() for state in states)


@pytest.mark.parametrize("last_step", LAST_STEPS)
@pytest.mark.parametrize("method", SDE_STEPS)
def test_leaving_out_the_trajectory_changes_no_bit(method, last_step, gaussian_flow):
    flow, z = gaussian_flow("GVP", "noise"), torch.ones(2, 1, 2, 2)

    def run(trajectory):
        torch.manual_seed(0)
        settings = dict(sampling_method=method, last_step=last_step, num_steps=12)
        return Sampler(flow.transport).sample_sde(trajectory=trajectory, **settings)(z, flow.model)

    full, end = run(True), run(False)
    assert len(full) == 12 and len(end) == 1
    assert end[-1].equal(full[-1])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sampling_method", "euler"),
        ("diffusion_form", "inccreasing-decreasing"),
        ("diffusion_norm", -1.0),
        ("diffusion_norm", float("nan")),
        ("last_step", "None"),
        ("last_step_size", 0.0),
        ("last_step_size", 1.5),
        ("num_steps", 1),
    ],
)
def test_bad_setting_is_refused_before_any_work(argument, value):
    with pytest.raises(ValueError) as error:
        Sampler(create_transport()).sample_sde(**{argument: value})
    assert argument in str(error.value) and str(value) in str(error.value)
