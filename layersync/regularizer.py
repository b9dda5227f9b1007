"""The regulariser: minus the cosine between a block's tokens and a deeper block's."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layersync.alignment import Mask, sample_cosine, split_mask
from layersync.blocks import as_blocks, find_blocks
from layersync.hidden import HiddenStates, Recording
from layersync.outputs import Select, TokenReader, describe
from layersync.pairs import Pair, check_pairs, check_weights
from layersync.schedule import Schedule, ScheduledWeight
from layersync.settings import read_settings


class LayerSync(Recording):
    """Align blocks in pairs: L_sync = - mean over pairs, samples and tokens of cos(z_k, z_k').

    Args:
        blocks: the model's blocks in the order in which they run, as in `model.blocks`, or several
            lists of them in a row, `[model.double_blocks, model.single_blocks]`. The outputs of a
            pair's blocks are tokens of the same shape, once `select` and the layout are applied.
        pairs: (student, teacher) block numbers, counted from 1, student < teacher <= their number.
        weights: one factor above 0 for each pair; the loss is then the weighted sum over pairs
            instead of their mean.
        schedule: how lambda changes; the loss is then multiplied by it, and `loss` needs the step
            unless lambda is constant.
        reduce: the mean of a tensor over all processes, for a threshold in the schedule; by
            default over torch.distributed's.
        select: which part of a block's output is compared, where it is not one tensor or not all
            of its tokens: a position, a name, or a function `select(output) -> Tensor`.
        batch_first: False for hidden states (T, N, D).
        channels_first: True for maps (N, D, H, W) or (N, D, T, H, W). Otherwise hidden states are
            (N, T, D), or (N, T, P, D) and flattened.
        cosine: what compares tokens: `torch.compile(layersync.alignment.sample_cosine)` does it in
            one kernel.

    The teacher is detached, so a gradient reaches the student's block and those before it. There
    are no parameters, and between `capture()` calls the model carries no trace of this object.

    Raises `ValueError` or `TypeError` when the settings do not fit each other or the blocks.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        pairs: Sequence[Pair],
        *,
        weights: Sequence[float] | None = None,
        schedule: Schedule | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
        select: Select | None = None,
        batch_first: bool = True,
        channels_first: bool = False,
        cosine: Callable[..., Tensor] = sample_cosine,
    ):
        self.cosine = cosine
        self.blocks = as_blocks(blocks)
        self.depth = len(self.blocks)
        self.pairs = check_pairs(pairs, self.depth, summary=self.blocks.summary())
        self.weights = None if weights is None else check_weights(weights, self.pairs)
        reader = TokenReader(select, batch_first, channels_first)
        numbers = {number for pair in self.pairs for number in pair}
        self._hidden = HiddenStates(self.blocks, numbers, reader.tokens)
        self.coefficient = None if schedule is None else ScheduledWeight(schedule, reduce)
        self._similarity: dict[Pair, Tensor] = {}
        self._loss: Tensor | None = None

    @classmethod
    def from_names(
        cls, model: nn.Module, names: str | Iterable[str], pairs: Sequence[Pair], **options
    ) -> "LayerSync":
        """Find the blocks by name: ["transformer_blocks.*", "single_transformer_blocks.*"].

        `names` are as in `find_blocks`, `options` as in the class.
        """
        return cls(find_blocks(model, names), pairs, **options)

    @classmethod
    def from_settings(
        cls,
        blocks: Sequence[nn.Module],
        settings: Mapping[str, Any] | str | os.PathLike,
        **options,
    ) -> "LayerSync | None":
        """Make one of SimpleTuner's settings, see `read_settings`; None if they disable it.

        `layersync_lambda` is the pair's weight: `loss()` is to be added as it is. `blocks` and
        `options` are as in the class; `find_blocks` finds them by name.
        """
        read = read_settings(settings)
        if read is None:
            return None
        return cls(blocks, [read.pair], weights=[read.lambda_], **options)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{n}: {self.blocks.describe(n)}" for n in self._hidden.numbers)
        weights = f", weights={list(self.weights)}" if self.weights else ""
        return f"LayerSync(depth={self.depth}, pairs={list(self.pairs)}{weights}; {numbers})"

    def _forget(self) -> None:
        self._similarity, self._loss = {}, None

    def loss(
        self, reduction: str = "mean", mask: Mask | None = None, step: int | None = None
    ) -> Tensor:
        """Return minus the mean cosine, in float32 whatever the autocast dtype.

        In [-1, 1]; with `weights`, in plus or minus their sum; with a schedule, times lambda.

        Args:
            reduction: "mean" for a scalar, "none" for one value per sample, (N,).
            mask: (N, T) bool, True for the tokens that count; each sample is the mean over its
                own, and 0 without any. After several passes, a list with one for each, or one
                for the larger batch.
            step: steps of the run done before this one, for the schedule.

        Lets go of the recorded outputs: call it once after each `capture()`.

        Raises `RuntimeError` when a paired block has not run inside `capture()`, or ran where its
        output carries no gradient; `ValueError` or `TypeError` when an output holds no tokens, the
        shapes of a pair differ, or the mask does not fit.
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
        self._check_step(step)
        tokens = self._tokens()
        cosines = {pair: self._cosine(tokens, pair, mask) for pair in self.pairs}  # (N,) each
        self._similarity = {pair: cosine.detach().mean() for pair, cosine in cosines.items()}
        losses = -self._combine(list(cosines.values()))  # (N,)
        if self.coefficient is not None:
            losses = self._weigh(losses, torch.stack(list(self._similarity.values())).mean(), step)
        self._loss = losses.detach().mean()
        return losses.mean() if reduction == "mean" else losses

    def similarity_tensors(self) -> dict[Pair, Tensor]:
        """Return `similarity()` as detached scalar tensors: nothing waits for the device."""
        if not self._similarity:
            raise RuntimeError("no similarity yet: call loss() after a forward pass in capture()")
        return self._similarity

    def logs(self) -> dict[str, float]:
        """Return the last weighted loss and the mean cosine over pairs, by SimpleTuner's names."""
        similarity = torch.stack(list(self.similarity_tensors().values())).mean()
        assert self._loss is not None  # set with the similarities, before them
        logs = {"layersync_loss": self._loss.item(), "layersync_similarity": similarity.item()}
        if self.coefficient is not None and self._weight is not None:
            logs["layersync_weight"] = float(self._weight)
        return logs

    def _combine(self, cosines: list[Tensor]) -> Tensor:
        """Return the mean over pairs, or their weighted sum, (N,); float32 under autocast too."""
        if self.weights is None:
            return torch.stack(cosines).mean(dim=0)
        first, *others = (w * cosine for w, cosine in zip(self.weights, cosines, strict=True))
        return sum(others, start=first)

    def _cosine(self, tokens: dict[int, list[Tensor]], pair: Pair, mask: Mask | None) -> Tensor:
        """Return the cosine of a pair for each sample of each pass, (N,)."""
        students, teachers = (tokens[number] for number in pair)
        masks = split_mask(mask, [(len(student), student.shape[1]) for student in students])
        passes = zip(students, teachers, masks, strict=True)
        return torch.cat([self.cosine(*tensors) for tensors in passes])

    def _tokens(self) -> dict[int, list[Tensor]]:
        """Return {number: tokens (N, T, D) of each of its calls}, checked."""
        outputs, tokens = self._hidden.take()
        for pair in self.pairs:
            for i in range(len(outputs[pair[0]])):
                by_block = {n: (outputs[n][i], tuple(tokens[n][i].shape)) for n in pair}
                if len({shape for _, shape in by_block.values()}) > 1:
                    raise ValueError(self._mismatch(pair, by_block))
        for student in sorted({student for student, _ in self.pairs}):
            self._hidden.require_gradient(student, tokens[student])
        return tokens

    def _mismatch(self, pair: Pair, by_block: dict[int, tuple[Any, tuple]]) -> str:
        returned = " and ".join(
            f"{self._hidden.name(number)} returned {describe(output)}, tokens {tuple(shape)}"
            for number, (output, shape) in by_block.items()
        )
        return (
            f"pair {pair}: student and teacher must have the same tokens and width (N, T, D), but "
            f"{returned}; drop tokens that only one of them has with select, or choose blocks of "
            f"one width"
        )
