"""Networks without some of their blocks: a block that is removed gives back what it gets.

    with without(blocks, Run(first=3, length=1)):
        v = network(x, t, y)                       # block 3 is skipped

Blocks before the first removed one see what they always see. Given their outputs of a whole pass,
they are not computed again, which halves the work of trying each block in turn.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from layersync.capture import restore


@dataclass(frozen=True)
class Run:
    """Blocks that follow each other: `length` of them from number `first`, counted from 1."""

    first: int
    length: int


def runs_of(depth: int, numbers: Sequence[int], lengths: Sequence[int]) -> list[Run]:
    """Return the runs of each length that begin at one of these blocks and end by `depth`.

    Raises `ValueError` for a length that leaves no run, or all blocks removed.
    """
    all_runs = []
    for length in lengths:
        runs = [Run(first, length) for first in numbers if first + length - 1 <= depth]
        if not runs or length >= depth:
            raise ValueError(
                f"--run-lengths {length}: the network has {depth} blocks, and one must stay; give "
                f"1 to {depth - 1}"
            )
        all_runs += runs
    return all_runs


@contextmanager
def without(
    blocks: Sequence[nn.Module], run: Run, known: Sequence[Tensor] | None = None
) -> Iterator[None]:
    """Remove a run of blocks from the network that they belong to, while the context lasts.

    Args:
        known: outputs of the blocks in a whole pass of the same input, to be given again.
    """
    removed = blocks[run.first - 1 : run.first - 1 + run.length]
    forwards: dict[nn.Module, Callable] = {block: give_back for block in removed}
    if known is not None:
        before = zip(blocks[: run.first - 1], known, strict=False)
        forwards |= {block: giving(output) for block, output in before}
    shadowed = {block: vars(block).get("forward") for block in forwards}
    try:
        for block, forward in forwards.items():
            block.forward = forward
        yield
    finally:
        for block, own in shadowed.items():
            restore(block, "forward", own)


def give_back(x: Tensor, *args, **kwargs) -> Tensor:
    return x


def giving(output: Tensor) -> Callable:
    def forward(*args, **kwargs) -> Tensor:
        return output

    return forward
