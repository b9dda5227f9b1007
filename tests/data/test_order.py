"""The order of an epoch, and the shares of the processes."""

import pytest

from data.order import StepBatches, batch_shard


def epoch_of_batches(shards, first=0, last=6, length=26, batch=8):
    return [list(StepBatches(length, batch, 0, first, last, shard)) for shard in shards]


def test_processes_share_each_batch_in_order():
    (whole,) = epoch_of_batches([range(8)])
    halves = epoch_of_batches([batch_shard(8, rank, 2) for rank in (0, 1)])
    assert whole == [a + b for a, b in zip(*halves, strict=True)]


def test_an_epoch_repeats_no_image_and_epochs_differ():
    (batches,) = epoch_of_batches([range(8)])
    epochs = [[i for batch in part for i in batch] for part in (batches[:3], batches[3:])]
    for epoch in epochs:
        assert len(set(epoch)) == 24
    assert epochs[0] != epochs[1]


def test_starting_later_continues_the_same_sequence():
    (whole,) = epoch_of_batches([range(8)])
    (rest,) = epoch_of_batches([range(8)], first=4)
    assert whole[4:] == rest


def test_uneven_shares_are_refused():
    with pytest.raises(ValueError, match="--global-batch-size 10 is not divisible by the 4"):
        batch_shard(10, 0, 4)
