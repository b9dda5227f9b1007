"""ODE sampling against golden values and the known flow of Gaussian data; forth, back, refused."""

import pytest
import torch

from transport import Sampler, StepTooSmall, create_transport
from transport.samplers import ADAPTIVE_ODE_METHODS, ODE_METHODS

PATHS = ["Linear", "GVP", "VP"]
PREDICTIONS = ["velocity", "score", "noise"]
TOLERANCES = {  # of the methods at the settings of `solve`, two or three times their errors
    **dict.fromkeys(ODE_METHODS, 1e-3),
    "euler": 0.1,
    "heun2": 3e-3,
    "midpoint": 2e-3,
    "rk4": 2e-6,
}


def noise(shape=(2, 1, 2, 2)):
    return torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(shape)


def solve(flow, z, **settings):
    settings = {"num_steps": 40, "rtol": 1e-5, **settings}
    return Sampler(flow.transport).sample_ode(**settings)(z, flow.model)


@pytest.mark.golden_family("ode")
def test_ode_sample_is_golden(key, golden, check_golden, golden_model):
    _, path, method, points = key.split("/")
    sampler = Sampler(create_transport(path))
    sample = sampler.sample_ode(sampling_method=method, num_steps=int(points))
    check_golden(key, sample(golden("in/x0"), golden_model, y=golden("in/y"))[-1])


def check_against_the_known_flow(flow, method, reverse=False):
    ends = flow.transport.ode_interval()
    expected = flow.transported(noise(), *(ends[::-1] if reverse else ends))
    actual = solve(flow, noise(), sampling_method=method, reverse=reverse)[-1]
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCES[method])


@pytest.mark.parametrize("method", ODE_METHODS)
def test_every_method_solves_the_flow_of_gaussian_data(method, gaussian_flow):
    check_against_the_known_flow(gaussian_flow("Linear", "velocity"), method)


@pytest.mark.parametrize("method", ["euler", "heun2", "rk4", "dopri5", "bosh3"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_every_path_and_prediction_flows_from_noise_to_data(
    path, prediction, method, gaussian_flow
):
    check_against_the_known_flow(gaussian_flow(path, prediction), method)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_reverse_flows_from_data_to_noise(path, prediction, method, gaussian_flow):
    check_against_the_known_flow(gaussian_flow(path, prediction), method, reverse=True)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_reverse_then_forward_is_the_identity(path, prediction, gaussian_flow):
    flow, data = gaussian_flow(path, prediction), noise()
    latent = solve(flow, data, sampling_method="rk4", num_steps=60, reverse=True)[-1]
    back = solve(flow, latent, sampling_method="rk4", num_steps=60)[-1]
    assert (latent - data).abs().max() > 0.1
    torch.testing.assert_close(back, data, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "order"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)]
)
@pytest.mark.parametrize("path", ["GVP", "VP"])
def test_error_falls_with_the_order_of_the_method(method, order, path, gaussian_flow):
    flow = gaussian_flow(path, "velocity")
    expected = flow.transported(noise(), *flow.transport.ode_interval())

    def error(intervals):
        actual = solve(flow, noise(), sampling_method=method, num_steps=intervals + 1)[-1]
        return (actual - expected).norm().item()

    coarse = {"GVP": 12, "VP": 32}[path]  # VP changes faster
    assert error(2 * coarse) > 1e-8  # else rounding is compared with rounding
    assert error(coarse) / error(2 * coarse) == pytest.approx(2**order, rel=0.2)


@pytest.mark.parametrize("method", ADAPTIVE_ODE_METHODS)
def test_tighter_tolerances_buy_accuracy_with_evaluations(method, gaussian_flow):
    evaluations = []
    for tolerance in (1e-2, 1e-5):
        flow = gaussian_flow("GVP", "velocity")
        end = solve(flow, noise(), sampling_method=method, atol=tolerance, rtol=tolerance)[-1]
        evaluations.append(len(flow.times))
    torch.testing.assert_close(end, flow.transported(noise(), 0, 1), rtol=0, atol=2e-3)
    assert evaluations[0] < evaluations[1]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", ODE_METHODS)
def test_no_method_asks_the_network_outside_the_interval(method, reverse, gaussian_flow):
    flow = gaussian_flow("Linear", "noise")
    solve(flow, noise(), sampling_method=method, reverse=reverse, rtol=1e-3, num_steps=10)
    t_0, t_1 = flow.transport.ode_interval()
    assert t_0 - 1e-6 <= min(flow.times) and max(flow.times) <= t_1 + 1e-6


@pytest.mark.parametrize("method", ["dopri5", "fehlberg2", "adaptive_heun"])
def test_adaptive_methods_stop_short_of_the_singular_end_of_vp(method, gaussian_flow):
    """Beyond t = 1 VP has no sigma: a step past the end gives NaN, and the solver gives up."""
    flow = gaussian_flow("VP", "noise")
    expected = flow.transported(noise(), *flow.transport.ode_interval())
    actual = solve(flow, noise(), sampling_method=method, rtol=1e-4)[-1]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("method", "evaluations"),
    [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)],
)
def test_grid_of_n_points_has_n_minus_1_steps(method, evaluations, gaussian_flow):
    flow = gaussian_flow("Linear", "velocity")
    states = solve(flow, noise(), sampling_method=method, num_steps=11)
    assert len(states) == 11
    assert len(flow.times) == 10 * evaluations
    assert states[0].equal(noise())


@pytest.mark.parametrize(
    ("velocity", "said"),
    [
        # dx/dt = x^2 from x = 2 is 2 / (1 - 2t), which has no value at t = 1/2
        (lambda x, t: x**2, "dopri5 cannot keep its error below atol 1e-06, rtol 0.001: its step"),
        (lambda x, t: x * float("nan"), "dopri5: the network gave NaN or infinity"),
    ],
)
def test_an_adaptive_solver_that_gives_up_says_why(velocity, said):
    sample = Sampler(create_transport()).sample_ode(sampling_method="dopri5", num_steps=3)
    with pytest.raises(StepTooSmall, match=said):
        sample(torch.full((1, 1, 2, 2), 2.0), velocity)


def test_states_lie_on_the_grid(gaussian_flow):
    flow = gaussian_flow("Linear", "velocity")
    for method in ("rk4", "dopri5"):
        states = solve(flow, noise(), sampling_method=method, num_steps=11)
        assert len(states) == 11
        for t, state in zip(torch.linspace(0, 1, 11).tolist(), states, strict=True):
            expected = flow.transported(noise(), 0, t)
            torch.testing.assert_close(state, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", ODE_METHODS)
def test_leaving_out_the_trajectory_changes_no_bit(method, reverse, gaussian_flow):
    flow = gaussian_flow("GVP", "velocity")
    settings = dict(sampling_method=method, reverse=reverse, rtol=1e-3, num_steps=12)
    full = solve(flow, noise().float(), **settings)
    ends = solve(flow, noise().float(), trajectory=False, **settings)
    assert len(full) == 12 and len(ends) == 2
    assert ends[0].equal(full[0]) and ends[-1].equal(full[-1])


def test_samples_keep_shape_and_type_and_no_graph(gaussian_flow):
    flow = gaussian_flow("Linear", "velocity")
    for z in (noise().float().requires_grad_(), noise((8, 1))):
        sample = solve(flow, z, sampling_method="euler")[-1]
        assert sample.shape == z.shape and sample.dtype == z.dtype
        assert not sample.requires_grad


@pytest.mark.parametrize("method", ["heun2", "dopri5"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_noise_of_half_precision_is_solved_in_float32(dtype, method, gaussian_flow):
    """Times of eight bits put dopri5 off by 0.4 here, and its steps in float16 were NaN."""
    flow, seen = gaussian_flow("Linear", "velocity"), set()

    def network(x, t):
        seen.add((x.dtype, t.dtype))
        return flow.model(x, t)

    z = noise().to(dtype)
    solver = Sampler(flow.transport).sample_ode(sampling_method=method, num_steps=40)
    end = solver(z, network)[-1]
    assert end.dtype == dtype and seen == {(dtype, torch.float32)}
    expected = flow.transported(z.double(), *flow.transport.ode_interval())
    torch.testing.assert_close(end.double(), expected, rtol=0, atol=0.02)


def test_labels_reach_the_network():
    def network(x, t, y):
        return torch.ones_like(x) * y.reshape(-1, 1, 1, 1)

    y = torch.tensor([2.0, -3.0])
    sample = Sampler(create_transport()).sample_ode(sampling_method="euler", num_steps=5)
    end = sample(torch.zeros(2, 1, 2, 2), network, y=y)[-1]
    torch.testing.assert_close(end, y.reshape(2, 1, 1, 1).expand(2, 1, 2, 2))


@pytest.mark.parametrize("method", ["sample_ode", "sample_ode_likelihood"])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sampling_method", "heun"), ("sampling_method", None), ("num_steps", 1), ("num_steps", -5),
        ("atol", float("nan")), ("atol", -1e-6), ("rtol", -1.0), ("rtol", float("inf")),
    ],
)  # fmt: skip
def test_bad_setting_is_refused_before_any_work(method, argument, value):
    with pytest.raises(ValueError) as error:
        getattr(Sampler(create_transport()), method)(**{argument: value})
    assert argument in str(error.value) and str(value) in str(error.value)


def test_tolerances_of_nothing_are_refused():
    """An error of 0 / 0 was said to be the network's."""
    with pytest.raises(ValueError, match=r"atol 0, rtol 0: tolerances must be"):
        Sampler(create_transport()).sample_ode(atol=0, rtol=0)
