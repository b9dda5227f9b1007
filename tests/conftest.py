"""Shared fixtures: the golden file, its SiT, and Gaussian data whose flow is known exactly."""

import copy
import gc
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from forking import end_fork_server, forked_python, reserve_fork_server
from forkserver import ForkServer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory):
    """Starts the project's commands as processes, without waiting for their imports."""
    return ForkServer(tmp_path_factory.mktemp("forked"))


GOLDEN_FILE = Path(__file__).parent / "golden" / "sit_tiny.npz"
GOLDEN_FAMILIES = {  # family: its keys; `@pytest.mark.golden_family(family)` makes a case of each
    "weights": r"weights/.+",
    "inputs": r"in/(x0|x1|t|y)|sde/noise",
    "output": r"model/out",
    "block": r"model/block\d+",
    "guidance": r"model/cfg4\.0_3ch",
    "plan": r"plan/\w+/(xt|ut)",
    "loss": r"loss/\w+/\w+/\w+",
    "score": r"score/\w+/\w+",
    "diffusion": r"diffusion/\w+/\w+",
    "eps": r"eps/\w+/\w+",
    "interval": r"interval/\w+/\w+/(ode|sde)",
    "layer_sync": r"layer_sync/(per_token_neg_cos|total)",
    "grad": r"grad/.+",
    "ode": r"ode/\w+/\w+/\d+",
    "sde": r"sde/\w+/\w+/\w+/\w+/\w+",
}


@cache
def golden_arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN_FILE) as arrays:
        return dict(arrays)


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # not in xdist's workers, which share the first one's
        config.fork_server = reserve_fork_server()
    config.addinivalue_line(
        "markers", "golden_family(name): run once for each `key` of this family of golden values"
    )


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        end_fork_server(config.fork_server)


def pytest_collection_finish(session):
    """Start the fork server early, if it is needed.

    And let collections of garbage pass over what the tests' modules import, a million objects.
    """
    needed = any("fork_server" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not session.config.option.collectonly:
        forked_python()  # which imports while the first tests make what they need
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()  # libraries complain at exit of what is left


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("golden_family")
    if marker:
        pattern = GOLDEN_FAMILIES[marker.args[0]]
        metafunc.parametrize("key", [k for k in golden_arrays() if re.fullmatch(pattern, k)])


@pytest.fixture
def golden_families():
    """{family: pattern of its keys} of the golden file."""
    return GOLDEN_FAMILIES


@pytest.fixture
def golden_keys():
    return list(golden_arrays())


@pytest.fixture
def golden():
    """golden(key) -> a fresh tensor."""
    return lambda key: torch.from_numpy(golden_arrays()[key].copy())


@pytest.fixture
def check_golden(golden):
    """check_golden(key, actual): equal to 1e-4 of the golden array's norm."""

    def check(key, actual):
        expected = golden(key)
        assert actual.shape == expected.shape
        assert (actual.detach() - expected).norm() <= 1e-4 * expected.norm()

    return check


@pytest.fixture(scope="session")
def pristine_golden_model():
    from models import SiT

    model = SiT(
        input_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        depth=6,
        num_heads=4,
        num_classes=10,
    )
    prefix = "weights/"
    weights = {k: torch.from_numpy(v) for k, v in golden_arrays().items() if k.startswith(prefix)}
    model.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items()})
    return model.eval()


@pytest.fixture
def golden_model(pristine_golden_model):
    """The SiT of the golden file, in eval mode; each test may change its own."""
    return copy.deepcopy(pristine_golden_model)


@pytest.fixture
def golden_batch(golden):
    """(x1, t, y) of the golden file."""
    return golden("in/x1"), golden("in/t"), golden("in/y")


class GaussianFlow:
    """Data N(mean, std^2) in each coordinate: x_t is Gaussian, so every predictor is known.

    The paths are written out once more, apart from the code under test, with sigma^2 in place of
    sigma so that nothing is singular at the ends.
    """

    def __init__(self, path: str, prediction: str, mean: float = 0.5, std: float = 0.7):
        from transport import create_transport

        self.path, self.prediction, self.data_mean, self.data_std = path, prediction, mean, std
        self.transport = create_transport(path, prediction)
        self.times = []  # at which the network was asked

    def coefficients(self, t):
        """alpha, its derivative, sigma^2, half of its derivative."""
        if self.path == "Linear":
            return t, torch.ones_like(t), (1 - t) ** 2, t - 1
        if self.path == "GVP":
            sin, cos = (t * math.pi / 2).sin(), (t * math.pi / 2).cos()
            return sin, cos * math.pi / 2, cos**2, -sin * cos * math.pi / 2
        alpha = (-(19.9 / 4) * (1 - t) ** 2 - 0.05 * (1 - t)).exp()
        d_alpha = alpha * (19.9 * (1 - t) + 0.1) / 2
        return alpha, d_alpha, 1 - alpha**2, -alpha * d_alpha

    def moments(self, t: float):
        """Mean and standard deviation of x_t."""
        alpha, _, sigma_squared, _ = self.coefficients(torch.tensor(t, dtype=torch.float64))
        variance = alpha**2 * self.data_std**2 + sigma_squared
        return (alpha * self.data_mean).item(), variance.sqrt().item()

    def exact(self, x, t) -> dict:
        """Velocity, score and noise at x (N, ...) and t (N,)."""
        t = t.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        alpha, d_alpha, sigma_squared, half_d_sigma_squared = self.coefficients(t)
        variance = alpha**2 * self.data_std**2 + sigma_squared
        half_d_variance = alpha * d_alpha * self.data_std**2 + half_d_sigma_squared
        score = (alpha * self.data_mean - x) / variance
        return {
            "velocity": d_alpha * self.data_mean - half_d_variance * score,
            "score": score,
            "noise": -sigma_squared.clamp(min=0).sqrt() * score,
        }

    def model(self, x, t):
        self.times.append(t[0].item())
        return self.exact(x, t)[self.prediction]

    def transported(self, x, start: float, stop: float):
        """Return where the probability-flow ODE takes x: it keeps the z-score of a coordinate."""
        (mean_0, std_0), (mean_1, std_1) = self.moments(start), self.moments(stop)
        return mean_1 + std_1 / std_0 * (x - mean_0)


@pytest.fixture
def gaussian_flow():
    return GaussianFlow
