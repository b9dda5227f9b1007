"""Outputs of numbered blocks, recorded in forward passes and read as tensors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from layersync.blocks import Blocks
from layersync.capture import BlockRecorder, Outputs
from layersync.pairs import Pair
from layersync.schedule import ScheduledWeight

Read = Callable[[Any], Tensor]


class HiddenStates:
    """Outputs of the blocks with these numbers, recorded and read.

    Args:
        blocks: all blocks, numbered from 1.
        numbers: of those that are recorded.
        read: from what a block returns to the tensor that is meant; `TypeError` or `ValueError`
            where there is none.
    """

    def __init__(self, blocks: Blocks, numbers: Iterable[int], read: Read):
        self.blocks, self.read = blocks, read
        self.numbers = sorted(set(numbers))
        # a module that stands in several places is recorded once, under the first of them
        self._first = {n: blocks.modules.index(blocks[n - 1]) + 1 for n in self.numbers}
        self.recorder = BlockRecorder({n: blocks[n - 1] for n in self._first.values()})

    def take(self) -> tuple[dict[int, list[Any]], dict[int, list[Tensor]]]:
        """Hand over ({number: outputs}, {number: tensors}), one of each for every call.

        Raises `RuntimeError` for blocks that did not run, ran unequally often, or whose outputs
        were changed in place since.
        """
        changed = self.recorder.changed()
        recorded = self.recorder.take()
        missing = [n for n in self.numbers if self._first[n] not in recorded]
        if missing:
            raise RuntimeError(
                f"blocks {missing} did not run inside capture() since the last loss(): "
                f"call the model inside `with sync.capture():`, then loss() once "
                f"({', '.join(self.name(number) for number in missing)})"
            )
        outputs = {number: self._calls(number, recorded) for number in self.numbers}
        counts = {number: len(calls) for number, calls in outputs.items()}
        if len(set(counts.values())) > 1:
            raise RuntimeError(
                f"the paired blocks ran unequally often (block: calls): {counts}; each pass inside "
                f"capture() must run all of them"
            )
        tensors = {n: [self._read(n, call) for call in calls] for n, calls in outputs.items()}
        altered = [
            n
            for n in self.numbers
            if self._first[n] in changed and not all_within(tensors[n], changed[self._first[n]])
        ]
        if altered:
            raise RuntimeError(
                f"the outputs of blocks {altered} were changed in place after the blocks returned "
                f"them, by x += y or ReLU(inplace=True) for instance, so that they are no longer "
                f"what is to be compared: write x = x + y there "
                f"({', '.join(self.name(number) for number in altered)})"
            )
        return outputs, tensors

    def require_gradient(self, student: int, tensors: list[Tensor]) -> None:
        """Raise `RuntimeError` where a student's output carries no gradient, in training."""
        if torch.is_grad_enabled() and not all(tensor.requires_grad for tensor in tensors):
            raise RuntimeError(
                f"block {student} is a student, but its output carries no gradient: its "
                f"pass ran under no_grad, frozen, in reentrant activation checkpointing "
                f"(use checkpoint(..., use_reentrant=False)), or inside torch.func.jvp or vmap"
            )

    def name(self, number: int) -> str:
        """Return the number of a block, its name in the model if known, and its class."""
        return f"block {number} ({self.blocks.describe(number)})"

    def _calls(self, number: int, recorded: Outputs) -> list[Any]:
        """Return a block's outputs; of a module in several places, those of every round's turn."""
        module = self.blocks[number - 1]
        places = [n for n, other in enumerate(self.blocks, start=1) if other is module]
        calls = recorded[self._first[number]]
        if len(calls) % len(places):
            raise RuntimeError(
                f"blocks {places} are one module, {type(module).__name__}, which must run once for "
                f"each of them in a pass; it ran {len(calls)} times"
            )
        return calls[places.index(number) :: len(places)]

    def _read(self, number: int, output: Any) -> Tensor:
        try:
            return self.read(output)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{self.name(number)} {error}") from error


def all_within(tensors: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    """Return whether each of some tensors lies in the memory of one of the others."""
    places = {other.untyped_storage().data_ptr() for other in others}
    return all(tensor.untyped_storage().data_ptr() in places for tensor in tensors)


class Recording(ABC):
    """The life cycle of a regulariser: `capture()`, then `loss()`.

    Subclasses set `_hidden` and, where lambda follows a schedule, `coefficient`.
    """

    _hidden: HiddenStates
    coefficient: ScheduledWeight | None = None
    _weight: float | Tensor | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint must keep, on the CPU; nothing without a threshold."""
        return {} if self.coefficient is None else self.coefficient.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; `ValueError` where something is missing."""
        if self.coefficient is not None:
            self.coefficient.load_state_dict(state)

    def similarity(self) -> dict[Pair, float]:
        """Return {pair: mean cosine} at the last `loss()`, for logging; waits for the device."""
        return {pair: value.item() for pair, value in self.similarity_tensors().items()}

    @abstractmethod
    def similarity_tensors(self) -> dict[Pair, Tensor]:
        """Return `similarity()` as detached scalar tensors: nothing waits for the device.

        Raises `RuntimeError` before there was a `loss()`.
        """

    def _check_step(self, step: int | None) -> None:
        if self.coefficient is not None:
            self.coefficient.at(step)

    def _weigh(self, losses: Tensor, similarity: Tensor, step: int | None) -> Tensor:
        """Return `losses` times lambda; in training, `similarity` counts for what follows."""
        if self.coefficient is None:
            return losses
        training = torch.is_grad_enabled()
        coefficient = self.coefficient
        weight = coefficient.step(similarity, step) if training else coefficient.at(step)
        if isinstance(weight, Tensor):
            weight = weight.to(losses)
        self._weight = weight
        return weight * losses

    @abstractmethod
    def _forget(self) -> None:
        """Forget what the last `loss()` left for logging."""

    @contextmanager
    def capture(self):
        """Record the paired blocks in forward passes inside this `with` statement.

        Several passes, of whatever token counts, are treated as one larger batch. Each `capture()`
        forgets the one before.
        """
        with capture(self):
            yield


@contextmanager
def capture(*regularizers: Recording):
    """Record for several regularisers at once: `with capture(sync, crepa):`.

    As `capture()` of each of them, but a block that several need is recorded once. None, which
    `from_settings` returns for what is switched off, is left out.

    Raises `TypeError` for anything else.
    """
    wanted = [regularizer for regularizer in regularizers if regularizer is not None]
    for regularizer in wanted:
        if not isinstance(regularizer, Recording):
            raise TypeError(f"capture: expected LayerSync or CREPA, got {regularizer!r}")
    for regularizer in wanted:
        regularizer._forget()
    if not wanted:
        yield
        return
    first, *others = (regularizer._hidden.recorder for regularizer in wanted)
    with first.recording(*others):
        yield
