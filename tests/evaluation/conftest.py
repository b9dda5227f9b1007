"""Images, an Inception with random weights, and tiny networks in its place."""

import numpy as np
import pytest
import torch
from torch import nn

from scripts.benchmarks.evaluation_stages import save_random_inception

SIZE = 12


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


class TinyNetwork(nn.Module):
    """Stands for Inception where the network does not matter: fixed random projections."""

    sha256 = "0" * 64

    def __init__(self):
        super().__init__()
        self.sizes = {"pool": 6, "spatial": 5, "logits": 4}
        random = torch.Generator().manual_seed(0)
        for name, size in self.sizes.items():
            self.register_buffer(name, torch.randn(SIZE * SIZE * 3, size, generator=random))

    def forward(self, images):
        flat = images.flatten(1).float() / 255 - 0.5
        return {name: flat @ getattr(self, name) for name in self.sizes}

    def warning(self):
        return None


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
