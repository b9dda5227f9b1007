"""Networks without blocks: what runs, what is replayed, and that nothing is left behind."""

import pytest
import torch
from torch import nn

from evaluation.blocks.removal import Run, runs_of, without


class Adding(nn.Module):
    """Adds its number, and counts how often it runs."""

    def __init__(self, number):
        super().__init__()
        self.number, self.ran = number, 0

    def forward(self, x, c):
        self.ran += 1
        return x + self.number


def through(blocks, x):
    outputs = []
    for block in blocks:
        x = block(x, None)
        outputs.append(x)
    return outputs


def test_a_run_of_blocks_gives_back_what_it_gets():
    blocks, x = nn.ModuleList(Adding(10**i) for i in range(4)), torch.zeros(1)
    for run, expected in {
        Run(1, 1): 1110,
        Run(2, 2): 1001,
        Run(4, 1): 111,
        Run(1, 0): 1111,
    }.items():
        with without(blocks, run):
            assert through(blocks, x)[-1].item() == expected
    assert through(blocks, x)[-1].item() == 1111
    assert not any("forward" in vars(block) for block in blocks)


def test_known_outputs_are_not_computed_again():
    blocks, x = nn.ModuleList(Adding(10**i) for i in range(4)), torch.zeros(1)
    known = through(blocks, x)
    for block in blocks:
        block.ran = 0
    with without(blocks, Run(3, 1), known):
        assert through(blocks, x)[-1].item() == 1011
    assert [block.ran for block in blocks] == [0, 0, 0, 1]


def test_nothing_is_left_behind_by_an_error():
    blocks = nn.ModuleList(Adding(i) for i in range(3))
    with pytest.raises(RuntimeError), without(blocks, Run(2, 1)):
        raise RuntimeError
    assert not any("forward" in vars(block) for block in blocks)


def test_runs_begin_at_chosen_blocks_and_leave_one():
    assert runs_of(4, (1, 2, 3, 4), (1, 3)) == [
        Run(1, 1), Run(2, 1), Run(3, 1), Run(4, 1), Run(1, 3), Run(2, 3),
    ]  # fmt: skip
    assert runs_of(4, (2, 4), (2,)) == [Run(2, 2)]
    for numbers, length in (((1, 2), 2), ((2,), 9), ((3,), 2)):
        with pytest.raises(ValueError, match=f"--run-lengths {length}: the network has"):
            runs_of(2 if length == 2 else 4, numbers, (length,))
