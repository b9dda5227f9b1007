"""Trained linear heads against torch's own layers, each trained by itself; a killed training."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluation.blocks.linear_heads import PRESETS, LinearHeads, judge_heads
from evaluation.blocks.linear_probe import class_ranks
from evaluation.blocks.tokens import Batch
from evaluation.blocks.trained_heads import HeadSettings, HeadTraining, clip_each
from runtime.processes import Alone
from runtime.randomness import epoch_order

DEPTH, TIMES, D, CLASSES, COUNT = 2, (0.2, 0.8), 5, 3, 23


class Tokens:
    """Stands for an extractor: random tokens of each image, times t and block number."""

    def __init__(self):
        self.x = torch.randn(COUNT, 4, D, generator=torch.Generator().manual_seed(0))

    def each(self, batches, times):
        for batch in batches:
            for k, time in enumerate(times):
                yield k, [batch.x_1 * (time + b) + b for b in range(DEPTH)], batch


class Images:
    """Stands for a source: image i is row i of the tokens, its class i mod 3."""

    seed, batch_size = 7, 4

    def __init__(self, tokens):
        self.x = tokens.x

    def groups(self, groups, target, view):
        for group in groups:
            yield Batch(self.x[group], self.x[group], target(group, self.x[group]))


def target(numbers, items):
    return torch.tensor(list(numbers)) % CLASSES


def training(tmp_path, settings, normalise, stop=None):
    tokens = Tokens()
    heads = LinearHeads((len(TIMES), DEPTH, D, CLASSES), normalise)
    made = HeadTraining(
        heads, settings, tokens, Images(tokens), list(range(COUNT)), target, TIMES, Alone(),
        tmp_path / "state.part", recipe="r",
    )  # fmt: skip
    if stop is not None:
        keep = made.keep

        def stopped():
            keep()
            if len(made.curve) == stop:
                raise KeyboardInterrupt

        made.keep = stopped
    return made


@pytest.mark.parametrize("normalise", [False, True])
def test_heads_are_torchs_layers_trained_one_by_one(tmp_path, normalise):
    settings = HeadSettings(epochs=3, batch=8, lr=0.05, weight_decay=0.01)
    made = training(tmp_path, settings, normalise)
    curve = torch.tensor(made.run(), dtype=torch.float64)
    steps = COUNT // 8
    for k, time in enumerate(TIMES):
        for b in range(DEPTH):
            features = (Tokens().x * (time + b) + b).mean(dim=1)
            norm = nn.BatchNorm1d(D, affine=False, eps=1e-6) if normalise else nn.Identity()
            layer = nn.Linear(D, CLASSES)
            start = LinearHeads((1, 1, D, CLASSES), False).weight[0, 0]
            layer.load_state_dict({"weight": start.T, "bias": torch.zeros(CLASSES)})
            optimizer = torch.optim.Adam(layer.parameters(), lr=0.05, weight_decay=0.01)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * steps)
            for epoch in range(3):
                order, losses = epoch_order(7, epoch, COUNT), []
                for step in range(steps):
                    chosen = torch.from_numpy(order[8 * step : 8 * step + 8])
                    loss = F.cross_entropy(layer(norm(features[chosen])), chosen % CLASSES)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    losses.append(loss.item())
                assert curve[epoch, k, b].item() == pytest.approx(sum(losses) / steps, rel=1e-5)
            norm.eval()
            expected = class_ranks(layer(norm(features)).double(), torch.arange(COUNT) % CLASSES)
            z = [Tokens().x * (time + i) + i for i in range(DEPTH)]
            actual = made.heads.ranks(k, z, torch.arange(COUNT) % CLASSES)[b]
            assert torch.equal(actual, expected)


def test_a_killed_training_goes_on(tmp_path):
    settings = HeadSettings(epochs=4, batch=8, lr=0.05)
    whole = training(tmp_path / "a", settings, True).run()
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "b", settings, True, stop=2).run()
    again = training(tmp_path / "b", settings, True)
    again.resume()
    assert len(again.curve) == 2 and again.run() == whole
    other = training(tmp_path / "b", settings, True)
    other.recipe = "another"
    other.resume()
    assert other.curve == []


def test_each_head_is_clipped_by_itself():
    parameter = nn.Parameter(torch.zeros(1, 2, 3, 2))
    bias = nn.Parameter(torch.zeros(1, 2, 2))
    parameter.grad, bias.grad = torch.ones(1, 2, 3, 2), torch.ones(1, 2, 2)
    parameter.grad[0, 1] /= 100
    bias.grad[0, 1] /= 100
    clip_each([parameter, bias], 1.0)
    norms = (parameter.grad.flatten(2).square().sum(2) + bias.grad.square().sum(2)).sqrt()
    assert norms.flatten().tolist() == pytest.approx([1, 8**0.5 / 100], rel=1e-4)


def test_presets_are_the_published_ones():
    ddae, repa = PRESETS["ddae"], PRESETS["repa"]
    assert (ddae.epochs, ddae.batch, ddae.lr) == (30, 128, 1e-3)
    assert (repa.epochs, repa.batch, repa.lr) == (90, 16_384, 1e-3)


def test_top_five_and_ties():
    scores = torch.tensor([[5.0, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    assert class_ranks(scores, torch.tensor([0, 3, 0])).tolist() == [0, 3, 5]
    broken = class_ranks(torch.tensor([[float("nan"), 1.0]]), torch.tensor([0]))
    assert broken.isnan().all()
    heads = LinearHeads((1, 1, 2, 6), False)
    with torch.no_grad():
        heads.weight.zero_()
        heads.bias[0, 0] = torch.arange(6.0)
    batch = SimpleNamespace(target=torch.tensor([5, 1, 0]))
    tokens = [(0, [torch.zeros(3, 1, 2)], batch)]
    numbers = judge_heads(heads, tokens, 1, Alone())
    assert numbers["top1"].item() == pytest.approx(1 / 3)
    assert numbers["top5"].item() == pytest.approx(2 / 3)


def test_a_batch_of_fewer_images_than_processes_is_refused(tmp_path):
    made = training(tmp_path, HeadSettings(epochs=1, batch=2, lr=0.1), False)
    made.processes.count = 3
    with pytest.raises(ValueError, match="2 images in a batch for 3 processes: use fewer proc"):
        made.__post_init__()
