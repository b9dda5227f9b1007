"""CREPA with backbone features: align a block's frames with a deeper block's, neighbours included.

    L = - lambda(step) * mean over videos of the mean over frames of S_i      (layersync/frames.py)

p = Linear(LayerNorm(z_k)) are a student block's tokens after a projector that is trained with the
model, f = stopgrad(z_k') a teacher block's, k <= k', in one forward pass and without an encoder.
The definition is that of SimpleTuner's `crepa_*` settings. Usage:

    crepa = CREPA(model.blocks, (9, 17), width=1536, frames=13, schedule=Schedule(weight=0.5))
    optimizer = AdamW([*model.parameters(), *crepa.parameters()])
    with crepa.capture():
        prediction = model(x, t, y)
    loss = task_loss(prediction, target) + crepa.loss()
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersync.blocks import as_blocks, find_blocks
from layersync.crepa_settings import read_crepa_settings, resolved_blocks
from layersync.frames import Neighbours, as_video, check_frames, same_frames, same_tokens
from layersync.hidden import HiddenStates, Recording
from layersync.outputs import Select, TokenReader
from layersync.pairs import Pair, check_crepa_pair
from layersync.projector import Projector, device_of
from layersync.schedule import Schedule, ScheduledWeight

MODES = "video", "image"


class CREPA(Recording):
    """Align frames of blocks: L = - lambda * mean over videos of the mean of S over frames.

    Args:
        blocks: the model's blocks in the order in which they run, as in `LayerSync`.
        pair: (student, teacher) block numbers, counted from 1, student <= teacher.
        width: D of the student's tokens. Without it the projector is made at the first `loss()`,
            and there are no parameters for an optimizer before.
        frames: how many frames a video has, where blocks return (B, T * N, D) with the tokens of
            one frame after those of the other; may be given to `loss` instead.
        mode: how (B, S, D) is read where `frames` is not given, as SimpleTuner reads it: "image",
            one frame of S tokens; "video", S frames of one token, the teacher's one frame of S.
        adjacent_distance, adjacent_tau, cumulative_neighbors, normalize_by_frames,
            normalize_neighbour_sum, spatial_align: as in `Neighbours`.
        schedule: lambda and how it changes; 1 throughout unless given.
        reduce: the mean of a tensor over all processes, for the average of the score; by default
            over torch.distributed's.
        select, batch_first, channels_first: as in `LayerSync`; maps (B, D, T, H, W) have frames.
        device: of the projector; that of the student's block unless given.

    The teacher is detached. The projector computes in float32 under autocast too; where
    torch.distributed is in use its weights are those of the first process and its gradients are
    averaged over processes, unless it is sharded by `fully_shard`.

    Raises `ValueError` or `TypeError` when the settings do not fit each other or the blocks.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        pair: Pair,
        *,
        width: int | None = None,
        frames: int | None = None,
        mode: str | None = None,
        adjacent_distance: int = 1,
        adjacent_tau: float = 1.0,
        cumulative_neighbors: bool = False,
        normalize_by_frames: bool = True,
        normalize_neighbour_sum: bool = False,
        spatial_align: bool = True,
        schedule: Schedule | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
        select: Select | None = None,
        batch_first: bool = True,
        channels_first: bool = False,
        device: torch.device | str | None = None,
    ):
        self.blocks = as_blocks(blocks)
        self.pair = check_crepa_pair(pair, len(self.blocks), summary=self.blocks.summary())
        self.frames, self.mode = check_frames(frames), mode
        if mode is not None and mode not in MODES:
            raise ValueError(f'mode: {mode!r} must be "video" or "image", or None')
        self.neighbours = Neighbours(
            adjacent_distance, adjacent_tau, cumulative_neighbors,
            normalize_by_frames, normalize_neighbour_sum, spatial_align,
        )  # fmt: skip
        reader = TokenReader(select, batch_first, channels_first)
        self._hidden = HiddenStates(self.blocks, self.pair, reader.states)
        self.coefficient: ScheduledWeight = ScheduledWeight(schedule or Schedule(), reduce)
        self.projector = Projector(width, device or device_of(self.blocks[self.pair[0] - 1]))
        self._logged: dict[str, Tensor] = {}

    @classmethod
    def from_names(
        cls, model: nn.Module, names: str | Iterable[str], pair: Pair, **options
    ) -> "CREPA":
        """Find the blocks by name, as in `find_blocks`; `options` are as in the class."""
        return cls(find_blocks(model, names), pair, **options)

    @classmethod
    def from_settings(
        cls,
        blocks: Sequence[nn.Module],
        settings: Mapping[str, Any] | str | os.PathLike,
        *,
        last_step: int | None = None,
        announce: Callable[[str], None] | None = print,
        **options,
    ) -> "CREPA | None":
        """Make one of SimpleTuner's `crepa_*` settings, see `read_crepa_settings`; None if off.

        Block numbers count from 0 there: `announce` is called with one line that says which
        modules they mean.

        Args:
            last_step: the step at which the run ends, for a schedule with `crepa_decay_steps` 0;
                the setting `max_train_steps` unless given.
            options: as in the class, for what the settings do not say: `width`, `frames`, `mode`,
                `select`, ...
        """
        read = read_crepa_settings(settings, last_step)
        if read is None:
            return None
        blocks = as_blocks(blocks)
        line = resolved_blocks(read, blocks)
        pair = read.block_index + 1, read.teacher_block_index + 1
        crepa = cls(blocks, pair, schedule=read.schedule, **vars(read.neighbours), **options)
        if announce is not None:
            announce(line)
        return crepa

    def __repr__(self) -> str:
        numbers = ", ".join(f"{n}: {self.blocks.describe(n)}" for n in self._hidden.numbers)
        frames = f", frames={self.frames}" if self.frames else ""
        return f"CREPA(depth={len(self.blocks)}, pair={self.pair}{frames}; {numbers})"

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the projector's parameters, for the optimizer.

        Raises `RuntimeError` where `width` was not given and there has been no `loss()` yet.
        """
        return self.projector.trained()

    def _forget(self) -> None:
        self._logged = {}

    def loss(
        self, reduction: str = "mean", step: int | None = None, frames: int | None = None
    ) -> Tensor:
        """Return minus lambda times the mean score of the videos, in float32 under autocast too.

        Args:
            reduction: "mean" for a scalar, "none" for one value per video, (B,).
            step: steps of the run done before this one, for the schedule.
            frames: of these videos, where they are not always as many.

        Lets go of the recorded outputs: call it once after each `capture()`. In training it takes
        the score into the average that a threshold looks at; under `no_grad` it does not.

        Raises `RuntimeError` when a block of the pair has not run inside `capture()`, or the
        student's output carries no gradient; `ValueError` or `TypeError` when outputs hold no
        frames of tokens, or those of the two blocks do not fit each other.
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
        self._check_step(step)
        frames = check_frames(frames) or self.frames
        _, states = self._hidden.take()
        students, teachers = (states[number] for number in self.pair)
        self._hidden.require_gradient(self.pair[0], students)
        passes = zip(students, teachers, strict=True)
        scored = [self._scores(*both, frames) for both in passes]
        videos = torch.cat([self.neighbours.per_video(scores) for scores, _ in scored])  # (B,)
        for name, i in (("score", 0), ("self", 1)):
            values = torch.cat([each[i].detach().mean(dim=1) for each in scored])
            self._logged[name] = values.mean()
        losses = self._weigh(-videos, self._logged["score"], step)
        self._logged["loss"] = losses.detach().mean()
        return losses.mean() if reduction == "mean" else losses

    def similarity_tensors(self) -> dict[Pair, Tensor]:
        """Return `similarity()` as detached scalar tensors: nothing waits for the device."""
        if not self._logged:
            raise RuntimeError("no similarity yet: call loss() after a forward pass in capture()")
        return {self.pair: self._logged["self"]}

    def logs(self) -> dict[str, float]:
        """Return the numbers of the last `loss()` under SimpleTuner's names.

        `crepa_alignment_score` is the mean of S, neighbours included, `crepa_similarity_self`
        that of c[i, i]; `crepa_cutoff` is whether lambda is 0.
        """
        self.similarity_tensors()
        assert self._weight is not None  # there has been a loss
        weight = float(self._weight)
        logs = {
            "crepa_loss": self._logged["loss"].item(),
            "crepa_alignment_score": self._logged["score"].item(),
            "crepa_similarity_self": self._logged["self"].item(),
            "crepa_weight": weight,
            "crepa_cutoff": weight == 0,
        }
        if self.coefficient.state[1] > 0:
            logs["crepa_alignment_score_ema"] = self.coefficient.average.item()
        return logs

    def state_dict(self) -> dict[str, Tensor]:
        """Return the projector's weights and the average of the score, for a checkpoint."""
        return self.projector.state() | self.coefficient.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; `ValueError` for missing or other entries."""
        self.projector.load_state(state)
        self.coefficient.load_state_dict(state)

    def _scores(
        self, student: Tensor, teacher: Tensor, frames: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return S and c[i, i] of each frame, (B, T), of what the two blocks returned in a pass."""
        student = self._as_video(self.pair[0], student, frames, self.mode)
        mode = "image" if self.mode == "video" else self.mode  # as SimpleTuner reads a teacher
        teacher = self._as_video(self.pair[1], teacher.detach(), frames, mode)
        if len(student) != len(teacher) or student.shape[-1] != teacher.shape[-1]:
            raise ValueError(
                f"pair {self.pair}: student and teacher must have the same videos and width, but "
                f"their states (B, T, N, D) are {tuple(student.shape)} and {tuple(teacher.shape)}"
            )
        with torch.autocast(student.device.type, enabled=False):
            projected, target = self.projector.project(student.float()), teacher.float()
            projected, target = same_frames(projected, target)
            both = same_tokens(projected, target, self.neighbours.spatial_align)
            return self.neighbours.scores(*(F.normalize(tokens, dim=-1) for tokens in both))

    def _as_video(
        self, number: int, states: Tensor, frames: int | None, mode: str | None
    ) -> Tensor:
        """Return a block's states as (B, T, N, D); `ValueError` where frames cannot be told."""
        try:
            return as_video(states, frames, mode)
        except ValueError as error:
            raise ValueError(f"{self._hidden.name(number)} {error}") from None
