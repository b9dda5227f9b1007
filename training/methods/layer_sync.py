"""LayerSync in the training loop: lambda times minus the cosine of paired blocks (paper, Eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from models.sizes import family
from runtime.flags import flag, require
from training.methods.method import (
    Materials,
    Method,
    Regularizer,
    Setting,
    changed,
    depth_of,
    no_effect,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from data.batch import Batch
    from models import SiT
    from training.config import TrainConfig
from training.methods.schedule import RegScheduleConfig, reg_schedule

# Published, by model family (paper, Sec. 4). S has B's 12 blocks and takes B's; no paper has Ti.
PUBLISHED_LAMBDAS = {"XL": 0.2, "L": 0.2, "B": 0.3, "S": 0.3, "Ti": 0.3}


@dataclass(frozen=True)
class LayerSyncSettings(Method):
    """Settings of LayerSync, whose flags lie at the top level of a run's settings."""

    loss_type: str
    encoder_depth: int | None
    gt_encoder_depth: int | None
    multi_blocks_match: str | None
    reg_weight: float | None
    schedule: RegScheduleConfig

    @classmethod
    def of(cls, c: TrainConfig) -> LayerSyncSettings:
        return cls(
            loss_type=c.loss_type,
            encoder_depth=c.encoder_depth,
            gt_encoder_depth=c.gt_encoder_depth,
            multi_blocks_match=c.multi_blocks_match,
            reg_weight=c.reg_weight,
            schedule=c.reg_schedule,
        )

    @property
    def acts(self) -> bool:
        """True if the loss names it."""
        return self.several or "layer_sync" in self.loss_type.split("+")

    @property
    def several(self) -> bool:
        return self.loss_type == "multiple_sync"

    @property
    def watched(self) -> bool:
        given = self.encoder_depth, self.gt_encoder_depth
        return not self.acts and any(depth is not None for depth in given)

    def check(self, c: TrainConfig) -> None:
        require(self, "reg_weight", self.reg_weight is None or self.reg_weight >= 0, "at least 0")
        if self.several and self.multi_blocks_match is None:
            raise ValueError('--loss-type multiple_sync needs --multi-blocks-match "[(4,7),(3,8)]"')
        ignored = ("encoder_depth", "gt_encoder_depth") if self.several else ("multi_blocks_match",)
        for name in ignored:
            value = getattr(self, name)
            if value is not None and value != "[]":  # the original's default
                raise ValueError(
                    f"{flag(name)} {value} has no effect with --loss-type {self.loss_type}"
                )
        self.schedule.check()

    def check_unused(self, c: TrainConfig, named: list[str]) -> None:
        """Refuse lambda where another method has its own; vanilla runs of old scripts give it."""
        if not named:
            return
        if self.reg_weight is not None:
            own = f"its own is --{named[0]}-weight"
            raise ValueError(f"--reg-weight {self.reg_weight}: {no_effect(c)}; {own}")
        for name in changed(self.schedule):
            raise ValueError(f"{flag(name)} {getattr(self.schedule, name)}: {no_effect(c)}")

    def in_force(self, model: str) -> tuple[list[tuple[int, int]], float]:
        """Return ([(student, teacher), ...], lambda), flags first and then the published values.

        Without LayerSync it is ([], 0), or one pair to be watched with weight 0. `ValueError` for
        an unknown model or for pairs that do not fit it.
        """
        from layersync import check_pairs, parse_pairs, suggest_pair  # imports torch

        depth = depth_of(model)
        if not (self.acts or self.watched):
            return [], 0.0
        published = PUBLISHED_LAMBDAS[family(model)]
        weight = published if self.reg_weight is None else self.reg_weight
        given = self.encoder_depth, self.gt_encoder_depth
        names = "--encoder-depth, --gt-encoder-depth"
        suggested = suggest_pair(depth)
        student, teacher = (s if g is None else g for g, s in zip(given, suggested, strict=True))
        pairs: Sequence[tuple[int, int]] = [(student, teacher)]
        if self.multi_blocks_match is not None and self.several:
            names = "--multi-blocks-match"
        try:
            if self.multi_blocks_match is not None and self.several:
                pairs = parse_pairs(self.multi_blocks_match)
            return list(check_pairs(pairs, depth)), weight if self.acts else 0.0
        except ValueError as error:
            raise ValueError(f"{names}: {error}") from None

    def folder_parts(self, model: str) -> list[str]:
        pairs, weight = self.in_force(model)
        if not weight:
            return []
        return [*(f"{student}-{teacher}" for student, teacher in pairs), f"lambda{weight:g}"]

    def resolved(self, model: str) -> dict[str, Setting]:
        pairs, weight = self.in_force(model)
        settings: dict[str, Setting] = {"pairs": ", ".join(f"{s} -> {t}" for s, t in pairs)}
        if len(pairs) == 1:  # numbers, so that a table of runs can be sorted by them
            ((settings["encoder_depth"], settings["gt_encoder_depth"]),) = pairs
        return {**settings, "reg_weight": weight}

    def make(self, given: Materials) -> Regularizer:
        pairs, weight = self.in_force(given.config.model)
        return LayerSyncRegularizer(
            network=given.network,
            pairs=pairs,
            weight=weight,
            schedule=self.schedule,
            last_step=given.last_step,
            reduce=partial(given.accelerator.reduce, reduction="mean"),
            compiled=given.compiled,
        )


def layer_sync_settings(c: TrainConfig) -> tuple[list[tuple[int, int]], float]:
    """Return the pairs and lambda of a run, see `LayerSyncSettings.in_force`."""
    return LayerSyncSettings.of(c).in_force(c.model)


class LayerSyncRegularizer(Regularizer):
    """Adds lambda L_sync to samples whose t is in `schedule.reg_t_range`.

    Args:
        weight: lambda; 0 to log the similarity and change nothing.
        schedule: how lambda changes until `last_step`.
        reduce: the mean of a tensor over all processes.
        compiled: compiles a function, or leaves it as it is.
    """

    name = "sync_loss"

    def __init__(
        self,
        *,
        network: SiT,
        pairs: list[tuple[int, int]],
        weight: float,
        schedule: RegScheduleConfig,
        last_step: int,
        reduce: Callable[[Tensor], Tensor],
        compiled: Callable,
    ):
        from layersync import LayerSync, ScheduledWeight
        from layersync.alignment import sample_cosine

        cosine = compiled(sample_cosine)
        self.sync = LayerSync(list(network.blocks), pairs, cosine=cosine)
        self.weight = weight
        self.schedule = schedule
        device = next(network.parameters()).device
        coefficient = reg_schedule(schedule, weight, last_step)
        self.coefficient = ScheduledWeight(coefficient, reduce, device) if weight else None
        self.varies = weight and schedule != RegScheduleConfig(reg_t_range=schedule.reg_t_range)

    def capture(self) -> AbstractContextManager:
        return self.sync.capture()

    def losses(self, batch: Batch) -> tuple[Tensor | None, dict[str, Tensor]]:
        losses = self.sync.loss(reduction="none")  # (N,)
        logged = {self.name: losses.mean()}
        for (student, teacher), similarity in self.sync.similarity_tensors().items():
            logged[f"similarity_{student}_{teacher}"] = similarity
        if self.coefficient is None:
            return None, logged
        weight = self.coefficient.at(batch.step)
        if not isinstance(weight, int | float):  # a threshold may have switched it off
            weight = weight.to(losses.dtype)
        if self.varies:
            logged["reg_weight"] = losses.new_ones(()) * weight
        low, high = self.schedule.reg_t_range
        if (low, high) != (0, 1):
            losses = losses * ((batch.t >= low) & (batch.t <= high))
        return weight * losses, logged

    def finish_step(self, logged: dict[str, Tensor]) -> None:
        if self.coefficient:
            self.coefficient.update(-logged[self.name])

    def state(self) -> dict[str, Tensor]:
        return self.coefficient.state_dict() if self.coefficient else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self.coefficient:
            self.coefficient.load_state_dict(state)

    def announcement(self) -> str:
        pairs = ", ".join(f"blocks[{s - 1}] -> blocks[{t - 1}]" for s, t in self.sync.pairs)
        effect = f"lambda {self.weight}" if self.weight else "logged only"
        if self.varies:
            effect += f", {self.schedule.reg_scheduler} schedule"
        return f"LayerSync: {pairs} (outputs of blocks), {effect}"
