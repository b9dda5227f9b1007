"""Training losses: golden values, weights in closed form, and the least loss on Gaussian data."""

import math

import pytest
import torch

from transport import create_transport
from transport.interpolant import INTERPOLANTS
from transport.transport import LOSS_WEIGHTS, PREDICTIONS

PATHS = list(INTERPOLANTS)
T = torch.tensor([0.1, 0.35, 0.6, 0.95], dtype=torch.float64)


def pair(seed=0, shape=(4, 2, 3, 3)):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)).double()


def of(value):
    """A network that returns `value` whatever it is asked."""
    return lambda x, t: value


@pytest.mark.golden_family("loss")
def test_loss_is_golden(key, golden, check_golden, golden_model):
    _, path, prediction, weight = key.split("/")
    transport = create_transport(path, prediction, None if weight == "None" else weight)
    y, t, x0 = golden("in/y"), golden("in/t"), golden("in/x0")
    losses = transport.training_losses(golden_model, golden("in/x1"), {"y": y}, t=t, x0=x0)
    check_golden(key, losses["loss"])


@pytest.mark.golden_family("score")
def test_score_is_golden(key, golden, check_golden, golden_model):
    _, path, prediction = key.split("/")
    transport = create_transport(path, prediction)
    score = transport.score(golden_model, golden("in/x1"), golden("in/t"), y=golden("in/y"))
    check_golden(key, score)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
def test_the_target_itself_has_no_loss(path, prediction, weight):
    x_0, x_1 = pair()
    interpolant = INTERPOLANTS[path]()
    target = {
        "velocity": interpolant.velocity(T, x_0, x_1),
        "score": -x_0 / interpolant.sigma(T[:, None, None, None])[0],
        "noise": x_0,
    }[prediction]
    transport = create_transport(path, prediction, weight)
    loss = transport.training_losses(of(target), x_1, t=T, x0=x_0)["loss"]
    assert loss.abs().max() < 1e-12


def test_loss_is_the_mean_squared_error_of_each_sample():
    x_0, x_1 = pair()
    zero, score_of = torch.zeros_like(x_0), create_transport("Linear", "score")
    velocity = create_transport().training_losses(of(zero), x_1, t=T, x0=x_0)["loss"]
    noise = create_transport("VP", "noise").training_losses(of(zero), x_1, t=T, x0=x_0)["loss"]
    score = score_of.training_losses(of(torch.ones_like(x_0)), x_1, t=T, x0=x_0)["loss"]
    for i in range(4):
        n = x_0[i].numel()
        assert velocity[i].item() == pytest.approx(((x_1[i] - x_0[i]) ** 2).sum().item() / n)
        assert noise[i].item() == pytest.approx((x_0[i] ** 2).sum().item() / n)
        # in units of the noise: sigma (1 + x_0 / sigma)
        in_noise = 1 - T[i] + x_0[i]
        assert score[i].item() == pytest.approx((in_noise**2).sum().item() / n)


BETA_HALF = (0.1 + 19.9 * (1 - T)) / 2
VP_SIGMA_SQUARED = 1 - (-(19.9 / 2) * (1 - T) ** 2 - 0.1 * (1 - T)).exp()
ANGLE = T * math.pi / 2
TIME_WEIGHTS = {  # lambda = (w / sigma)^2 and w / sigma^2 of SiT's App. A, worked out by hand
    ("Linear", "velocity"): 1 / T**2,
    ("Linear", "likelihood"): 1 / (T * (1 - T)),
    ("GVP", "velocity"): (math.pi / 2 / ANGLE.sin()) ** 2,
    ("GVP", "likelihood"): math.pi / 2 / (ANGLE.sin() * ANGLE.cos()),
    ("VP", "velocity"): BETA_HALF**2 / VP_SIGMA_SQUARED,
    ("VP", "likelihood"): BETA_HALF / VP_SIGMA_SQUARED,
}


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("path", "weight"), TIME_WEIGHTS)
def test_time_weights_are_the_closed_forms(path, weight, prediction):
    x_0, x_1 = pair()
    network = of(torch.ones_like(x_0))
    plain, weighted = (
        create_transport(path, prediction, w).training_losses(network, x_1, t=T, x0=x_0)["loss"]
        for w in (None, weight)
    )
    expected = 1.0 if prediction == "velocity" else TIME_WEIGHTS[path, weight]
    torch.testing.assert_close(weighted, plain * expected)


@pytest.mark.parametrize("path", PATHS)
def test_exact_velocity_of_gaussian_data_has_the_conditional_variance_as_loss(path, gaussian_flow):
    flow, n, t = gaussian_flow(path, "velocity"), 100_000, 0.4
    x_0, noise = pair(shape=(n, 1))
    times = torch.full((n,), t, dtype=torch.float64)
    x_1 = flow.data_mean + flow.data_std * noise
    loss = flow.transport.training_losses(flow.model, x_1, t=times, x0=x_0)["loss"]

    alpha, d_alpha, sigma_squared, half = (c.item() for c in flow.coefficients(times[0]))
    s2 = flow.data_std**2
    covariance = alpha * d_alpha * s2 + half  # of x_t and its velocity
    variance = d_alpha**2 * s2 + half**2 / sigma_squared  # of the velocity
    expected = variance - covariance**2 / (alpha**2 * s2 + sigma_squared)
    # the mean of n chi-square values has standard error sqrt(2 / n) = 0.45 %: four of them
    assert loss.mean().item() == pytest.approx(expected, rel=0.018)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_of_a_sample_does_not_depend_on_its_batch(path, prediction):
    x_0, x_1 = pair()
    transport = create_transport(path, prediction, "likelihood")

    def loss(part):
        return transport.training_losses(
            lambda x, t: x.sin() * t[:, None, None, None], x_1[part], t=T[part], x0=x_0[part]
        )["loss"]

    parts = torch.cat([loss(slice(0, 1)), loss(slice(1, 4))])
    torch.testing.assert_close(loss(slice(0, 4)), parts, rtol=1e-12, atol=0)


def test_network_gets_x_t_its_times_and_its_labels_and_its_output_is_returned():
    x_0, x_1 = pair()
    asked = {}

    def network(x, t, y):
        asked.update(x=x, t=t, y=y)
        return x

    result = create_transport().training_losses(network, x_1, {"y": "labels"}, t=T, x0=x_0)
    t = T[:, None, None, None]
    torch.testing.assert_close(asked["x"], t * x_1 + (1 - t) * x_0)
    assert asked["t"] is T and asked["y"] == "labels" and result["pred"] is asked["x"]


def test_half_precision_errors_are_squared_and_averaged_in_float32():
    x_0, x_1 = (x.bfloat16() for x in pair())
    prediction = torch.full_like(x_0, 3.0)
    transport = create_transport("Linear", "noise")
    loss = transport.training_losses(of(prediction), x_1, t=T.bfloat16(), x0=x_0)["loss"]
    assert loss.dtype == torch.float32
    expected = (prediction - x_0).double().square().flatten(1).mean(dim=1)
    # to 1e-6, where bfloat16 would be off by 1e-3
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_left_out_times_and_noise_are_drawn_uniform_and_standard_normal():
    torch.manual_seed(0)
    n, asked = 20_000, {}

    def network(x, t):
        asked.update(x=x, t=t)
        return x

    create_transport("Linear", "noise", train_eps=0.1).training_losses(network, torch.zeros(n, 1))
    t, x_0 = asked["t"], (asked["x"] / (1 - asked["t"][:, None])).flatten()
    assert 0.1 <= t.min() < 0.101 and 0.899 < t.max() <= 0.9
    # five standard errors: 0.8 / sqrt(12 n) for the mean of t, 1 / sqrt(n) for that of the noise
    assert t.mean().item() == pytest.approx(0.5, abs=5 * 0.8 / math.sqrt(12 * n))
    assert x_0.mean().item() == pytest.approx(0, abs=5 / math.sqrt(n))
    assert x_0.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * n))
