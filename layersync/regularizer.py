"""The regulariser: minus the cosine between a block's tokens and a deeper block's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersync.capture import BlockRecorder
from layersync.pairs import Pair, check_pairs


class LayerSync:
    """Align blocks in pairs: L_sync = - mean over pairs, samples and tokens of cos(z_k, z_k').

    Args:
        blocks: the model's blocks in order, as in `model.blocks`; each returns a tensor (N, T, D).
        pairs: (student, teacher) block numbers, counted from 1, student < teacher <= len(blocks).

    The teacher is detached, so a gradient reaches the student's block and those before it. There
    are no parameters, and between `capture()` calls the model carries no trace of this object.

    Raises `ValueError` when the pairs do not fit the blocks.
    """

    def __init__(self, blocks: Sequence[nn.Module], pairs: Sequence[Pair]):
        self.depth = len(blocks)
        self.pairs = check_pairs(pairs, self.depth)
        numbers = sorted({number for pair in self.pairs for number in pair})
        self._recorder = BlockRecorder({number: blocks[number - 1] for number in numbers})
        self._similarity: dict[Pair, Tensor] = {}

    def __repr__(self) -> str:
        return f"LayerSync(depth={self.depth}, pairs={list(self.pairs)})"

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Record the paired blocks in forward passes inside this `with` statement.

        Several passes are treated as one larger batch. Each `capture()` forgets the one before.
        Copy or pickle the model outside, where nothing of this is attached to it.
        """
        self._similarity = {}
        with self._recorder.recording():
            yield

    def loss(self, reduction: str = "mean") -> Tensor:
        """Minus the mean cosine, in float32 whatever the autocast dtype, in [-1, 1].

        Args:
            reduction: "mean" for a scalar, "none" for one value per sample, (N,).

        Lets go of the recorded outputs: call it once after each `capture()`.

        Raises `RuntimeError` when a paired block has not run inside `capture()`, or ran where its
        output carries no gradient; `ValueError` when the shapes of a pair differ.
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
        self._check_recorded()
        outputs = {n: join(calls) for n, calls in self._recorder.outputs.items()}
        self._recorder.clear()
        cosines = {pair: token_cosine(outputs, pair).mean(dim=1) for pair in self.pairs}  # (N,)
        self._similarity = {pair: cosine.detach().mean() for pair, cosine in cosines.items()}
        losses = -torch.stack(list(cosines.values())).mean(dim=0)  # (N,)
        return losses.mean() if reduction == "mean" else losses

    def similarity(self) -> dict[Pair, float]:
        """The mean cosine of each pair at the last `loss()`, for logging; waits for the device."""
        return {pair: value.item() for pair, value in self.similarity_tensors().items()}

    def similarity_tensors(self) -> dict[Pair, Tensor]:
        """As `similarity()`, as detached scalar tensors: nothing waits for the device."""
        if not self._similarity:
            raise RuntimeError("no similarity yet: call loss() after a forward pass in capture()")
        return self._similarity

    def _check_recorded(self) -> None:
        missing = self._recorder.missing()
        if missing:
            raise RuntimeError(
                f"blocks {list(missing)} did not run inside capture() since the last loss(): "
                f"call the model inside `with sync.capture():`, then loss() once"
            )
        counts = {n: len(calls) for n, calls in self._recorder.outputs.items()}
        if len(set(counts.values())) > 1:
            raise RuntimeError(f"the paired blocks ran unequally often (block: calls): {counts}")
        for number, calls in self._recorder.outputs.items():
            for output in calls:
                check_tokens(number, output)
        students = {student for student, _ in self.pairs}
        if torch.is_grad_enabled():
            for number in sorted(students):
                if not all(output.requires_grad for output in self._recorder.outputs[number]):
                    raise RuntimeError(
                        f"block {number} is a student, but its output carries no gradient: its "
                        f"pass ran under no_grad, frozen, or in reentrant activation "
                        f"checkpointing (use checkpoint(..., use_reentrant=False))"
                    )


def join(calls: list[Tensor]) -> Tensor:
    return calls[0] if len(calls) == 1 else torch.cat(calls)  # cat would copy a single one too


def check_tokens(number: int, output) -> None:
    if not isinstance(output, Tensor) or output.dim() != 3:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"block {number} must return one tensor (N, T, D), it returned {found}")


def token_cosine(outputs: dict[int, Tensor], pair: Pair) -> Tensor:
    """cos(z_k, stopgrad(z_k')) for each token, (N, T), float32: half precision has given NaN."""
    student, teacher = (outputs[number] for number in pair)
    if student.shape != teacher.shape:
        raise ValueError(
            f"pair {pair}: block {pair[0]} returned {tuple(student.shape)} and block {pair[1]} "
            f"{tuple(teacher.shape)}; student and teacher must have the same tokens and width"
        )
    with torch.autocast(student.device.type, enabled=False):
        return F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1)
