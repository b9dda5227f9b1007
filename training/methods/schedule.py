"""The --reg-* flags: lambda over training, by the library's schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runtime.flags import flag, require

if TYPE_CHECKING:
    from layersync import Schedule


@dataclass(frozen=True)
class RegScheduleConfig:
    """lambda of LayerSync over training, and where in time it acts; the paper's is constant."""

    reg_scheduler: Literal["constant", "linear", "cosine", "polynomial"] = "constant"
    """how lambda goes from --reg-weight to --reg-weight-end"""
    reg_warmup_steps: int = 0
    """steps over which lambda rises linearly from 0 before that"""
    reg_decay_steps: int | None = None
    """step at which the end value is reached; the last one unless given"""
    reg_weight_end: float = 0.0
    """lambda at the end"""
    reg_power: float = 2.0
    """exponent of the polynomial"""
    reg_cutoff_step: int | None = None
    """lambda is 0 from this step on"""
    reg_similarity_threshold: float | None = None
    """lambda is 0 where a moving average of the similarity is over this"""
    reg_similarity_decay: float = 0.99
    """decay of that average"""
    reg_threshold_mode: Literal["permanent", "recoverable"] = "permanent"
    """whether lambda stays 0 when the similarity falls again"""
    reg_t_range: tuple[float, float] = (0.0, 1.0)
    """only samples with t in this range are aligned (0 is noise)"""

    def check(self) -> None:
        """Raise `ValueError` for values out of range, and for those without effect."""
        require(self, "reg_warmup_steps", self.reg_warmup_steps >= 0, "at least 0")
        require(self, "reg_weight_end", self.reg_weight_end >= 0, "at least 0")
        require(self, "reg_power", self.reg_power > 0, "positive")
        cutoff, threshold = self.reg_cutoff_step, self.reg_similarity_threshold
        require(self, "reg_cutoff_step", cutoff is None or cutoff >= 1, "at least 1")
        in_range = threshold is None or -1 <= threshold <= 1
        require(self, "reg_similarity_threshold", in_range, "a cosine, in [-1, 1]")
        require(self, "reg_similarity_decay", 0 <= self.reg_similarity_decay < 1, "in [0, 1)")
        low, high = self.reg_t_range
        require(self, "reg_t_range", 0 <= low < high <= 1, "LOW HIGH with 0 <= LOW < HIGH <= 1")
        decays = self.reg_decay_steps is None or self.reg_decay_steps > self.reg_warmup_steps
        require(self, "reg_decay_steps", decays, "more than --reg-warmup-steps")
        if self.reg_scheduler == "constant":
            for name in ("reg_decay_steps", "reg_weight_end"):
                value = getattr(self, name)
                if value:
                    raise ValueError(
                        f"{flag(name)} {value} has no effect with --reg-scheduler constant"
                    )


def reg_schedule(c: RegScheduleConfig, weight: float, last_step: int) -> Schedule:
    """Return the schedule of a run to `last_step` whose lambda is `weight`."""
    from layersync import Schedule  # imports torch

    return Schedule(
        weight=weight,
        scheduler=c.reg_scheduler,
        warmup_steps=c.reg_warmup_steps,
        decay_steps=last_step if c.reg_decay_steps is None else c.reg_decay_steps,
        weight_end=c.reg_weight_end,
        power=c.reg_power,
        cutoff_step=c.reg_cutoff_step,
        similarity_threshold=c.reg_similarity_threshold,
        similarity_decay=c.reg_similarity_decay,
        threshold_mode=c.reg_threshold_mode,
    )
