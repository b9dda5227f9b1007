"""Images, an Inception with random weights, and tiny networks in its place."""

import numpy as np
import pytest
from tiny_network import SIZE, TinyNetwork

from scripts.benchmarks.evaluation_stages import save_random_inception


def draw_images(count: int, seed: int, size: int = SIZE) -> np.ndarray:
    """uint8 (N, size, size, 3): coarse random patterns and a little noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, size // 4, size // 4, 3))
    fine = coarse.repeat(4, axis=1).repeat(4, axis=2) + random.normal(0, 20, (count, size, size, 3))
    return fine.clip(0, 255).astype(np.uint8)


@pytest.fixture
def images():
    """images(count, seed) -> uint8 (N, 12, 12, 3)."""
    return draw_images


@pytest.fixture
def tiny_networks(monkeypatch):
    """Evaluations in this process use a TinyNetwork; returns one."""
    monkeypatch.setattr("evaluation.evaluator.load_extractors", lambda options: [TinyNetwork()])
    return TinyNetwork()


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A file of Inception weights: random, but features keep their scale through the layers."""
    path = str(tmp_path_factory.mktemp("inception") / "random.pth")
    save_random_inception(path)
    return path
