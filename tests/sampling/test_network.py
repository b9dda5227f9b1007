"""The network as a solver sees it: counted, in its precision, compiled."""

import pytest
import torch
from random_sit import random_sit

from sampling.network import Network, describe_dtype, prepare_model
from sampling.sample_file import settings_of_samples
from transport import Guidance


@pytest.fixture
def model():
    return random_sit(num_classes=5)


def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 8, 8, generator=generator)
    return x, torch.full((3,), 0.5), torch.tensor([0, 1, 4])


@torch.no_grad()
def test_a_guided_evaluation_is_two_passes_inside_the_interval_and_one_outside(model):
    network = Network(model)
    guided = Guidance(network, 2.0, interval=(0.25, 0.75))
    x, _, y = inputs()
    told = []
    network.on_evaluation = told.append
    for t in (0.0, 0.2, 0.25, 0.5, 0.75, 0.8, 1.0):
        guided(x, torch.full((3,), t), y)
    assert told == [1, 2, 3, 4, 5, 6, 7]
    assert (network.evaluations, network.passes) == (7, 7 + 3)
    network.reset()
    assert (network.evaluations, network.passes) == (0, 0)


@torch.no_grad()
def test_outside_the_interval_guidance_is_the_conditional_network(model):
    x, t, y = inputs()
    guided = Guidance(Network(model), 2.0, interval=(0.6, 1.0))
    assert torch.equal(guided(x, t, y), model(x, t, y))
    within = Guidance(Network(model), 2.0, interval=(0.3, 1.0))
    assert torch.equal(within(x, t, y), Guidance(model, 2.0)(x, t, y))
    at_grid_point = torch.linspace(0, 1, 11)[3].expand(3)  # 0.3 in float32 is above 0.3
    edge = Guidance(Network(model), 2.0, interval=(0.0, 0.3))
    assert not torch.equal(edge(x, at_grid_point, y), model(x, at_grid_point, y))


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.7, 0.3), (-0.1, 1.0), (0.0, 1.1)])
def test_an_interval_that_is_none_is_refused(model, interval):
    with pytest.raises(ValueError, match="must be low < high within"):
        Guidance(model, 2.0, interval=interval)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_bfloat16_is_what_autocast_computes_and_comes_out_as_float32(model, scale):
    """Weights cast beforehand or by autocast in every evaluation: the same roundings."""
    x, t, y = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        expected = Guidance(model, scale)(x, t, y).float()
    exact = Guidance(model, scale)(x, t, y)
    out = Guidance(Network(prepare_model(model, bf16=True, compile=False), bf16=True), scale)(
        x, t, y
    )
    assert out.dtype == torch.float32 and torch.equal(out, expected)
    error = (out - exact).norm() / exact.norm()
    assert 0 < error < 0.05


@torch.no_grad()
def test_compiled_blocks_give_the_same(model, monkeypatch):
    """With the graph captured but not lowered, so that no C++ compiler is needed."""
    x, t, y = inputs()
    expected = model(x, t, y)
    monkeypatch.setattr("models.compiling.BACKEND", "aot_eager")
    torch._dynamo.reset()
    network = Network(prepare_model(model, bf16=False, compile=True))
    torch.testing.assert_close(network(x, t, y), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
def test_the_arithmetic_of_a_recipe_is_taken_from_it(bf16, tf32):
    """The codec's products are TF32 or not beside a network in bfloat16 too."""
    for device in ("cuda", "cpu"):
        dtype = describe_dtype(bf16, tf32, torch.device(device))
        taken = settings_of_samples({"weights_sha256": "0", "dtype": dtype, "device": device})
        assert taken["bf16"] == bf16 and taken.get("tf32", tf32) == tf32
        assert ("tf32" in taken) == (device == "cuda")
