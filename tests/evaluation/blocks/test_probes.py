"""Probes of blocks against closed forms, scikit-learn, and a network whose features are known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluation.blocks.linear_probe import RIDGES, RidgeProbe, linear_probe
from evaluation.blocks.probes import PROBES, probe_blocks
from evaluation.blocks.token_statistics import block_similarity, effective_rank
from transport import create_transport

PATH = create_transport().path


def clusters(count, classes=3, dimensions=6, spread=1.0, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    centres = np.random.default_rng(99).normal(size=(classes, dimensions)) * 2
    features = centres[labels] + spread * random.normal(size=(count, dimensions))
    features = features * np.linspace(0.1, 30, dimensions) + 7  # scales and offset do not matter
    return torch.from_numpy(features), torch.from_numpy(labels)


def test_effective_rank_closed_forms():
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(4, 4)) == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.diag(torch.tensor([1.0, 1, 1, 0, 0, 0]))) == pytest.approx(3)
    shares = np.array([0.5, 0.3, 0.2])  # singular values; the covariance has their squares
    entropy = -(shares * np.log(shares)).sum()
    covariance = torch.diag(torch.from_numpy(shares) ** 2) * 17
    assert effective_rank(covariance) == pytest.approx(math.exp(entropy))
    assert effective_rank(torch.zeros(3, 3)) == 0
    assert math.isnan(effective_rank(torch.full((3, 3), math.nan)))


def test_effective_rank_is_roy_and_vetterlis_of_the_centred_features():
    features = torch.randn(50, 7, dtype=torch.float64) @ torch.randn(7, 7, dtype=torch.float64)
    singular = torch.linalg.svdvals(features - features.mean(dim=0))
    shares = singular / singular.sum()
    expected = torch.exp(-(shares * shares.log()).sum()).item()
    assert effective_rank(features.T.cov()) == pytest.approx(expected)


def test_ridge_probe_is_ridge_regression_on_standardised_features():
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    features, labels = clusters(80)
    probe = RidgeProbe(features.shape[1], 3)
    for part in (slice(0, 30), slice(30, 31), slice(31, 80)):  # in any batches
        probe.add(features[part], labels[part])
    weights, offsets = probe.fit()
    scaled, one_hot = StandardScaler().fit_transform(features), np.eye(3)[labels]

    def gcv(ridge):  # written out with the hat matrix
        x, y = scaled, one_hot - one_hot.mean(axis=0)
        hat = x @ np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T)
        residual, freedom = y - hat @ y, 1 + np.trace(hat)
        return (residual**2).sum() / (1 - freedom / len(x)) ** 2

    best = min((RIDGES * len(features)).tolist(), key=gcv)
    expected = Ridge(alpha=best).fit(scaled, one_hot).predict(scaled)
    np.testing.assert_allclose(features @ weights + offsets, expected, atol=1e-9)


def test_linear_probe_against_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    train, test = clusters(400), clusters(400, seed=1)
    scale = train[0].std(dim=0)
    logistic = LogisticRegression(max_iter=10_000).fit(train[0] / scale, train[1])
    expected = logistic.score(test[0] / scale, test[1])
    assert linear_probe(*train, *test) == pytest.approx(expected, abs=0.03)
    assert 0.5 < expected < 1


def test_linear_probe_extremes():
    train, test = clusters(200, spread=1e-3), clusters(200, spread=1e-3, seed=1)
    assert linear_probe(*train, *test) == 1
    noise, constant = torch.randn(200, 6), torch.full((200, 6), 3.0)
    assert linear_probe(noise, train[1], noise.flip(0), test[1]) == pytest.approx(1 / 3, abs=0.12)
    most = torch.bincount(train[1]).argmax()  # without features, the commonest class is the guess
    actual = linear_probe(constant, train[1], constant, test[1])
    assert actual == pytest.approx((test[1] == most).double().mean().item())
    assert math.isnan(linear_probe(train[0] * math.nan, train[1], *test))


def test_more_dimensions_than_images():
    features, labels = clusters(20)
    wide = torch.cat([features, torch.randn(20, 100)], dim=1)
    assert linear_probe(wide, labels, wide, labels) > 0.8


@pytest.mark.parametrize("chunk", [1, 2**23])
def test_block_similarity_is_the_mean_cosine(chunk, monkeypatch):
    monkeypatch.setattr(
        "evaluation.blocks.token_statistics.CHUNK", chunk
    )  # sample by sample, or at once
    tokens = [torch.randn(3, 5, 8) for _ in range(4)]
    actual = block_similarity(tokens)
    for i, a in enumerate(tokens):
        for j, b in enumerate(tokens):
            expected = F.cosine_similarity(a, b, dim=-1).mean().item()
            assert actual[i, j].item() == pytest.approx(expected, abs=1e-6)
    assert block_similarity([tokens[0], -2 * tokens[0]])[0, 1].item() == pytest.approx(-1)


class Known(nn.Module):
    """Blocks whose outputs are known: x_t in tokens, one direction of it, and the label's row."""

    null_label = 3

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Step(0), Step(1), Step(2)])
        self.seen = []

    def forward(self, x, t, y):
        self.seen.append((t.clone(), y.clone()))
        for block in self.blocks:
            x = block(x, y)
        return x


class Step(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.unused = kind, nn.Parameter(torch.zeros(1))

    def forward(self, x, y):
        if self.kind == 0:
            return x.clone()
        if self.kind == 1:
            return x[..., :1] * torch.ones_like(x)
        return torch.full_like(x, 1.0) * y[:, None, None]


def batches(count, seed):
    """Tokens (N, 4, 3) whose sign is the class, in batches of 10."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    x_1 = torch.randn(count, 4, 3, generator=random) + 4 * (2 * labels[:, None, None] - 1)
    x_0 = torch.randn(count, 4, 3, generator=random)
    parts = zip(*(tensor.split(10) for tensor in (x_1, x_0, labels)), strict=True)
    return list(parts)


def test_blocks_of_a_known_network():
    model, fit, held_out = Known(), batches(40, 0), batches(30, 1)
    report = probe_blocks(
        model, model.blocks, fit, held_out, classes=2, path=PATH, times=(0.0, 1.0)
    )
    assert report.correct.shape == (2, 3, 30) and report.depth == 3
    assert report.accuracy[1].tolist() == [1, 1, 0.5]  # at t = 1; the last block sees no image
    assert (report.accuracy[0] < 0.75).all()  # noise alone

    x_1, x_0 = (torch.cat([batch[i] for batch in fit]) for i in (0, 1))
    for row, x in enumerate((x_0, x_1)):
        expected = effective_rank(x.flatten(0, 1).T.cov())
        assert report.effective_rank[row, 0].item() == pytest.approx(expected, rel=1e-5)
        assert report.effective_rank[row, 1].item() == pytest.approx(1, abs=1e-3)
        assert report.effective_rank[row, 2] == 0
        cosine = F.cosine_similarity(x, x[..., :1] * torch.ones(3), dim=-1).mean().item()
        assert report.similarity[row, 0, 1].item() == pytest.approx(cosine, abs=1e-6)


def test_probes_never_see_the_label_and_leave_the_network_alone():
    model = Known()
    probe_blocks(
        model, model.blocks, batches(20, 0), batches(20, 1), classes=2, path=PATH, times=(0.3,)
    )
    assert all((y == model.null_label).all() for _, y in model.seen)
    assert all((t == 0.3).all() for t, _ in model.seen)
    assert not any("forward" in vars(block) for block in model.blocks)


def test_batches_and_repetition_change_nothing():
    model, fit, held_out = Known(), batches(40, 0), batches(30, 1)
    one = [tuple(torch.cat(column) for column in zip(*fit, strict=True))]
    a = probe_blocks(model, model.blocks, fit, held_out, classes=2, path=PATH, times=(0.5,))
    b = probe_blocks(model, model.blocks, one, held_out, classes=2, path=PATH, times=(0.5,))
    again = probe_blocks(model, model.blocks, fit, held_out, classes=2, path=PATH, times=(0.5,))
    for name in ("correct", "effective_rank", "similarity"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-6, atol=1e-6)
        assert torch.equal(getattr(a, name), getattr(again, name))


def test_a_sit_is_probed_with_its_null_label_and_refused_without(golden_model):
    x = torch.randn(8, 4, 8, 8)
    data = [(x, torch.randn_like(x), torch.arange(8) % 2)]
    report = probe_blocks(
        golden_model, golden_model.blocks, data, data, classes=2, path=PATH, times=(0.5,)
    )
    assert report.correct.shape == (1, 6, 8) and report.similarity.shape == (1, 6, 6)
    torch.testing.assert_close(
        report.similarity[0].diag(), torch.ones(6, dtype=torch.float64), atol=1e-6, rtol=0
    )
    golden_model.class_dropout_prob = 0
    with pytest.raises(ValueError, match="no null label"):
        probe_blocks(golden_model, golden_model.blocks, data, data, classes=2, path=PATH)


class TokenNorm:
    """One more probe: the mean norm of each block's tokens, of the held-out images alone."""

    def __init__(self, classes):
        self.sums, self.count, self.labels = 0, 0, classes * [0]

    def fit(self, tokens, labels):
        pass

    def fitted(self, processes):
        pass

    def judge(self, tokens, labels):
        self.sums = self.sums + torch.stack([z.norm(dim=-1).sum() for z in tokens])
        self.count += tokens[0].shape[:2].numel()

    def numbers(self, processes):
        return {"norm": self.sums / self.count}


def test_one_more_probe_is_one_class():
    model, fit, held_out = Known(), batches(40, 0), batches(30, 1)
    probed = dict(classes=2, path=PATH, times=(0.0, 1.0))
    report = probe_blocks(model, model.blocks, fit, held_out, **probed, probes=[*PROBES, TokenNorm])
    plain = probe_blocks(model, model.blocks, fit, held_out, **probed)
    x_1, x_0 = (torch.cat([batch[i] for batch in held_out]) for i in (0, 1))
    for row, x in enumerate((x_0, x_1)):
        assert report.more["norm"][row, 0].item() == pytest.approx(x.norm(dim=-1).mean().item())
    assert torch.equal(report.correct, plain.correct) and plain.more == {}
