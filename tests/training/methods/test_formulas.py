"""Dispersive loss, SRA and REPA against their formulas, written out in NumPy."""

from contextlib import nullcontext
from copy import deepcopy
from typing import ClassVar

import numpy as np
import pytest
import torch

from data.batch import Batch
from data.source_protocol import mirror
from models import find_model
from models.encoders import PatchEncoder
from runtime.randomness import step_streams
from training.methods.dispersive import DispersiveConfig, DispersiveRegularizer, dispersive_loss
from training.methods.heads import make_head
from training.methods.repa import EncodedPatches, REPAConfig, REPARegularizer
from training.methods.sra import SRAConfig, SRARegularizer
from training.objective import Objective
from transport import create_transport

TRANSPORT = create_transport()


@pytest.fixture
def network():
    """A tiny SiT whose blocks are not the identity, as they are at the start of training."""
    torch.manual_seed(0)
    network = find_model("SiT-Ti/2")(input_size=8, in_channels=1, num_classes=10)
    for block in network.blocks:
        torch.nn.init.normal_(block.adaLN_modulation[1].weight, std=0.1)
    return network.train()


@pytest.fixture
def batch():
    draws = step_streams(0, 0, range(6))
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    return Batch(
        step=0,
        images=images,
        mirrored=draws.uniform() < 0.5,
        labels=torch.arange(6),
        dropped=torch.tensor([False, True] * 3),
        t=torch.tensor([0.0, 0.1, 0.5, 0.85, 0.95, 1.0]),
        x_1=draws.normal((1, 8, 8)),
        x_0=draws.normal((1, 8, 8)),
        extra={"sra_shift": draws.uniform()},
    )


class Features:
    """Those that make() gives, whatever the batch."""

    width = 24
    reads: ClassVar = {}

    def __init__(self, make):
        self.make = make

    def __call__(self, batch):
        return self.make()


def sra(network, ema):
    """SRA of a SiT-Ti/2."""
    return SRARegularizer(
        network=network,
        ema=ema,
        transport=TRANSPORT,
        depths=(2, 5),
        config=SRAConfig(),
        seed=0,
        autocast=nullcontext,
    )


def hidden(network, depth, x, t, batch):
    """The output of block number `depth`, by a hook of PyTorch's own, float64."""
    outputs = []
    handle = network.blocks[depth - 1].register_forward_hook(lambda *a: outputs.append(a[2]))
    network(x, t, **batch.conditions)
    handle.remove()
    return outputs[0].detach().double().numpy()


def objective(regularizer, network, batch):
    """(loss, {name: value})"""
    whole = Objective(TRANSPORT, [regularizer])
    loss, values = whole(network, batch, nullcontext())
    return loss, {name: value.item() for name, value in values.items()}


def numpy_mlp(head, x):
    layers = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        if i < len(layers) - 1:
            x = x / (1 + np.exp(-x))
    return x


def numpy_dispersive(z, tau):
    z = z.reshape(len(z), -1)
    terms = [[np.exp(-np.sum((a - b) ** 2) / (z.shape[1] * tau)) for a in z] for b in z]
    return np.log(np.mean(terms))


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_dispersive_formula(tau):
    z = torch.randn(7, 4, 3)
    assert dispersive_loss(z, tau).item() == pytest.approx(numpy_dispersive(z.numpy(), tau), 1e-5)


def test_dispersive_loss_does_not_lose_small_distances_far_from_the_origin():
    z = torch.randn(7, 4, 3)
    far = z + torch.randn(4, 3) * 100
    expected = numpy_dispersive(far.double().numpy(), 1)
    assert dispersive_loss(far, 1).item() == pytest.approx(expected, rel=1e-3)
    assert dispersive_loss(torch.zeros(3, 2, 2), 1).item() == pytest.approx(0, abs=1e-6)
    assert dispersive_loss(z.bfloat16(), 1).dtype == torch.float32


def test_dispersive_gradient_is_that_of_the_direct_formula():
    z = torch.randn(5, 12, dtype=torch.float64)
    direct, ours = (z.clone().requires_grad_() for _ in range(2))
    squared = (direct[:, None] - direct[None]).square().sum(-1) / 12
    torch.log(torch.exp(-squared / 0.5).mean()).backward()
    dispersive_loss(ours.reshape(5, 4, 3), 0.5).backward()
    torch.testing.assert_close(ours.grad, direct.grad, rtol=1e-5, atol=1e-8)


def test_dispersive_loss_of_the_last_block_is_added(network, batch):
    regularizer = DispersiveRegularizer(network, 8, DispersiveConfig())
    loss, logged = objective(regularizer, network, batch)
    x_t = TRANSPORT.path.x_t(batch.t, batch.x_0, batch.x_1)
    expected = numpy_dispersive(hidden(network, 8, x_t, batch.t, batch), 1.0)
    assert logged["dispersive_loss"] == pytest.approx(expected, rel=1e-4)
    assert loss.item() == pytest.approx(logged["velocity_loss"] + 0.25 * expected, rel=1e-4)


def test_sra_formula(network, batch):
    ema = deepcopy(network).eval().requires_grad_(False)
    for p in ema.parameters():
        p.mul_(0.9)
    regularizer = sra(network, ema)
    (shift,) = regularizer.draws
    again = batch.extra[shift.name]
    loss, logged = objective(regularizer, network, batch)
    t = np.minimum(batch.t.numpy() + 0.2 * again.numpy(), 1).astype(np.float32)
    assert (t >= batch.t.numpy()).all() and t[-1] == 1
    weight = t[:, None, None, None]
    x_later = torch.from_numpy(weight * batch.x_1.numpy() + (1 - weight) * batch.x_0.numpy())
    x_t = TRANSPORT.path.x_t(batch.t, batch.x_0, batch.x_1)
    student = numpy_mlp(regularizer.head, hidden(network, 2, x_t, batch.t, batch))
    distance = abs(student - hidden(ema, 5, x_later, torch.from_numpy(t), batch))
    smooth = np.where(distance < 0.05, distance**2 / (2 * 0.05), distance - 0.05 / 2)
    assert logged["sra_loss"] == pytest.approx(smooth.mean(), rel=1e-4)
    assert loss.item() == pytest.approx(logged["velocity_loss"] + 0.2 * smooth.mean(), rel=1e-4)


def test_repa_formula(network, batch):
    target = torch.randn(6, 16, 24)
    regularizer = REPARegularizer(network, Features(lambda: target), 3, REPAConfig(), 0)
    loss, logged = objective(regularizer, network, batch)
    x_t = TRANSPORT.path.x_t(batch.t, batch.x_0, batch.x_1)
    ours = numpy_mlp(regularizer.head, hidden(network, 3, x_t, batch.t, batch))
    dot = (ours * target.numpy()).sum(-1)
    cosine = dot / np.linalg.norm(ours, axis=-1) / np.linalg.norm(target.numpy(), axis=-1)
    assert logged["repa_loss"] == pytest.approx(-cosine.mean(), rel=1e-4)
    assert loss.item() == pytest.approx(logged["velocity_loss"] - 0.5 * cosine.mean(), rel=1e-4)


@pytest.mark.parametrize("method", ["dispersive", "sra", "repa"])
def test_gradients_reach_the_blocks_up_to_the_student_and_the_head_only(network, batch, method):
    """The blocks after it, the teacher and the encoder get none from the regulariser alone."""
    ema = deepcopy(network).eval()
    if method == "dispersive":
        regularizer, last = DispersiveRegularizer(network, 4, DispersiveConfig()), 4
    elif method == "sra":
        regularizer = sra(network, ema)
        last = 2
    else:
        encoder = torch.nn.Linear(1, 24)
        features = Features(lambda: encoder(torch.rand(6, 16, 1)))
        regularizer = REPARegularizer(network, features, 3, REPAConfig(), 0)
        last = 3
    with regularizer.capture():
        network(batch.x_1, batch.t, **batch.conditions)
    added, _ = regularizer.losses(batch)
    added.mean().backward()
    reached = [block.attn.qkv.weight.grad is not None for block in network.blocks]
    assert reached == [i < last for i in range(8)]
    assert all(p.grad is None for p in ema.parameters())
    if method == "repa":
        assert all(p.grad is None for p in encoder.parameters())
    if regularizer.head is not None:
        assert all(p.grad.abs().sum() > 0 for p in regularizer.head.parameters())


def test_weights_of_a_head_are_a_function_of_the_seed():
    torch.manual_seed(5)
    first = make_head([8, 16, 8], seed=1)
    torch.manual_seed(6)
    second, other = make_head([8, 16, 8], seed=1), make_head([8, 16, 8], seed=2)
    x = torch.randn(3, 8)
    assert torch.equal(first(x), second(x)) and not torch.equal(first(x), other(x))
    assert abs(first[0].weight.std().item() - (2 / 24) ** 0.5) < 0.03  # Xavier


def test_patch_features_are_those_of_the_networks_patches():
    """By timm's own path: its mean and deviation, its tokens without the first ones."""
    import timm
    from torchvision.transforms.functional import normalize

    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, img_size=64).eval()  # patches of 16
    images = torch.randint(0, 256, (2, 3, 80, 80), dtype=torch.uint8)
    with torch.no_grad():
        x = normalize(images / 255, network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
        x = torch.nn.functional.interpolate(x, 64, mode="bicubic")
        expected = network.forward_features(x)[:, 1:]
    actual = PatchEncoder(network, 4)(images)
    torch.testing.assert_close(actual, expected)
    assert actual.shape == (2, 16, network.embed_dim)
    assert PatchEncoder(network, 5)(images[:, :1]).shape == (2, 25, network.embed_dim)


def test_an_encoder_without_a_grid_of_patches_is_refused():
    import timm

    with pytest.raises(AttributeError, match="ResNet has no grid of patches; give a plain vision"):
        PatchEncoder(timm.create_model("test_resnet"), 4)


def test_features_are_of_the_mirrored_images(batch):
    """The encoder here gives the left column: that of the mirror is the right column."""

    class LeftColumn:
        width = 1

        def __call__(self, images):
            return images[:, 0, :, :1]

    seen = EncodedPatches(LeftColumn(), True, nullcontext)(batch)[..., 0]
    expected = torch.where(
        batch.mirrored[:, None], batch.images[:, 0, :, -1], batch.images[:, 0, :, 0]
    )
    assert batch.mirrored.any() and torch.equal(seen, expected)
    assert torch.equal(mirror(batch.images, batch.mirrored)[:, 0, :, 0], expected)
    assert torch.equal(
        EncodedPatches(LeftColumn(), False, nullcontext)(batch), batch.images[:, 0, :, :1]
    )
