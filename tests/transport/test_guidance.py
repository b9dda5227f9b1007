"""Classifier-free guidance: its formula, the channels it leaves alone, and its cost."""

import pytest
import torch

from models import SiT
from transport import Guidance, Sampler, create_transport


class Counting:
    """A network that notes the size of each batch it sees."""

    def __init__(self, model):
        self.model, self.batches = model, []
        self.null_label = model.null_label

    def __call__(self, x, t, y):
        self.batches.append(len(x))
        return self.model(x, t, y)

    def forward_with_cfg(self, x, *inputs):
        self.batches.append(len(x))
        return self.model.forward_with_cfg(x, *inputs)


@pytest.fixture
def predictions(golden_model, golden_batch):
    """(conditional, unconditional) predictions of the golden batch."""
    x, t, y = golden_batch
    with torch.no_grad():
        return golden_model(x, t, y), golden_model(x, t, torch.full_like(y, 10))


@pytest.mark.golden_family("guidance")
def test_guidance_is_golden(key, golden, check_golden, golden_model, golden_batch):
    x, t, y = (tensor[:2] for tensor in golden_batch)
    labels = torch.cat([y, torch.full_like(y, 10)])
    x2, t2 = torch.cat([x, x]), torch.cat([t, t])
    check_golden(key, golden_model.forward_with_cfg(x2, t2, labels, 4.0))
    # the golden array holds the guided channels of each sample twice
    guided = Guidance(golden_model, 4.0)(x, t, y)
    expected = golden(key)[:2]
    assert (guided - expected).norm() <= 1e-4 * expected.norm()


def test_cfg_looks_at_the_first_half_of_the_states_only(golden_model, golden_batch):
    x, t, y = (tensor[:2] for tensor in golden_batch)
    labels, t2 = torch.cat([y, torch.full_like(y, 10)]), torch.cat([t, t])
    twice = golden_model.forward_with_cfg(torch.cat([x, x]), t2, labels, 2.0)
    other = golden_model.forward_with_cfg(torch.cat([x, -x]), t2, labels, 2.0)
    assert twice.equal(other)
    assert twice[:2, :3].equal(twice[2:, :3])


@pytest.mark.parametrize("scale", [1.5, 4.0])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, None])
def test_guided_channels_follow_the_formula_and_the_rest_is_conditional(
    scale, channels, golden_model, golden_batch, predictions
):
    cond, uncond = predictions
    with torch.no_grad():
        actual = Guidance(golden_model, scale, channels)(*golden_batch)
    formula = uncond + scale * (cond - uncond)
    k = 4 if channels is None else channels
    torch.testing.assert_close(actual[:, :k], formula[:, :k], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actual[:, k:], cond[:, k:], rtol=1e-4, atol=1e-5)


def test_three_channels_are_guided_by_default(golden_model, golden_batch):
    default = Guidance(golden_model, 2.0)(*golden_batch)
    assert default.equal(Guidance(golden_model, 2.0, 3)(*golden_batch))
    assert not default.equal(Guidance(golden_model, 2.0, 4)(*golden_batch))


def test_scale_1_is_one_pass_of_the_network_itself(golden_model, golden_batch):
    counting = Counting(golden_model)
    assert Guidance(counting, 1.0)(*golden_batch).equal(golden_model(*golden_batch))
    assert counting.batches == [4]


def test_scale_above_1_is_one_pass_of_twice_the_batch(golden_model, golden_batch):
    counting = Counting(golden_model)
    assert Guidance(counting, 1.5)(*golden_batch).shape == (4, 4, 8, 8)
    assert counting.batches == [8]


def test_null_label_follows_the_number_of_classes():
    torch.manual_seed(0)
    model = SiT(8, 2, 4, hidden_size=16, depth=1, num_heads=2, num_classes=7).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert model.null_label == 7
    x, t, y = torch.randn(3, 4, 8, 8), torch.rand(3), torch.tensor([0, 3, 6])
    cond, uncond = model(x, t, y), model(x, t, torch.full_like(y, 7))
    guided = Guidance(model, 3.0, None)(x, t, y)
    torch.testing.assert_close(guided, uncond + 3 * (cond - uncond), rtol=1e-4, atol=1e-5)


def test_sampling_undoubled_gives_the_samples_of_sits_doubled_batch(golden_model, golden):
    x0, y = golden("in/x0"), golden("in/y")
    sample = Sampler(create_transport()).sample_ode(sampling_method="euler", num_steps=6)
    ours = sample(x0, Guidance(golden_model, 2.5), y=y)[-1]
    doubled = {"y": torch.cat([y, torch.full_like(y, 10)]), "cfg_scale": 2.5}
    theirs = sample(torch.cat([x0, x0]), golden_model.forward_with_cfg, **doubled)[-1]
    torch.testing.assert_close(ours, theirs[:4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 0.99, -1.0, float("nan")])
def test_scale_below_1_is_refused(scale, golden_model):
    with pytest.raises(ValueError, match=f"{scale}"):
        Guidance(golden_model, scale)


def test_model_without_null_label_is_refused_unless_unguided():
    model = SiT(8, 2, 4, hidden_size=16, depth=1, num_heads=2, class_dropout_prob=0.0)
    with pytest.raises(ValueError, match="class_dropout_prob 0"):
        Guidance(model, 1.5)
    assert Guidance(model, 1.0).null_label is None
