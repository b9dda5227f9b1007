"""Draws are functions of their key."""

import numpy as np
import torch

from runtime.randomness import epoch_order, image_streams, step_streams


def test_a_sample_draws_the_same_in_any_batch():
    together = step_streams(7, 3, range(6))
    apart = [step_streams(7, 3, [position]) for position in range(6)]
    for draw in (lambda s: s.uniform(), lambda s: s.normal((2, 3)), lambda s: s.integers(1000)):
        assert torch.equal(draw(together), torch.cat([draw(streams) for streams in apart]))


def test_seed_step_position_and_purpose_give_other_draws():
    draws = [
        step_streams(0, 1, [2]),
        step_streams(1, 1, [2]),
        step_streams(0, 2, [2]),
        step_streams(0, 1, [3]),
        image_streams(0, [1]),
        image_streams(0, [2]),
    ]
    values = [streams.normal((8,)).flatten() for streams in draws]
    for i, a in enumerate(values):
        for b in values[i + 1 :]:
            assert not torch.isclose(a, b).any()


def test_draws_have_the_laws_they_are_named_for():
    streams = image_streams(0, range(2000))
    normal, uniform, integers = streams.normal((16,)), streams.uniform(), streams.integers(10)
    assert normal.dtype == uniform.dtype == torch.float32 and integers.dtype == torch.int64
    # five standard errors
    assert abs(normal.mean()) < 5 / 32000**0.5
    assert abs(normal.std() - 1) < 5 / 64000**0.5
    assert abs(uniform.mean() - 0.5) < 5 / (12 * 2000) ** 0.5
    assert uniform.min() >= 0 and uniform.max() < 1
    assert (np.bincount(integers, minlength=10) > 120).all() and integers.max() == 9


def test_no_two_of_50000_images_share_their_noise():
    first = image_streams(0, range(50_000)).normal((2,)).numpy()
    assert len(np.unique(first.view(np.int64))) == 50_000


def test_epoch_order_is_a_permutation_that_changes():
    orders = [epoch_order(seed, epoch, 100) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(100))
    assert len({tuple(order) for order in orders}) == 4
