"""lambda over training: a schedule of the step, a cut-off, a stop at a threshold of similarity.

    L = task loss + lambda(step) * loss,    lambda = 0 while, or from when, a moving average
                                            of the similarity is over the threshold

One mechanism for every regulariser. Two conventions differ in details, see `Schedule`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

# how far lambda still is from its end value, for p from 0 to 1 on the way and the exponent
LEFT: dict[str, Callable[[float, float], float]] = {
    "constant": lambda p, power: 1.0,
    "linear": lambda p, power: 1 - p,
    "cosine": lambda p, power: (1 + math.cos(math.pi * p)) / 2,
    "polynomial": lambda p, power: (1 - p) ** power,
}
MODES = "permanent", "recoverable"
CONVENTIONS = "layersync", "simpletuner"
STATE = "similarity_stop"


@dataclass(frozen=True)
class Schedule:
    """The course of lambda: a warm-up to `weight`, the way to `weight_end`, and when it is 0.

    Args:
        weight: lambda, at least 0.
        scheduler: "constant", "linear", "cosine" or "polynomial".
        warmup_steps: steps over which lambda rises linearly to `weight` before that.
        decay_steps: step, counted from the start of the run, at which `weight_end` is reached;
            the last one of the run, for instance. Needed by all but "constant".
        weight_end: lambda from there on.
        power: exponent of the polynomial.
        cutoff_step: lambda is 0 from this step on; None for never.
        similarity_threshold: lambda is 0 where a moving average of the similarity is over this.
        similarity_decay: decay of that average, in [0, 1).
        threshold_mode: "permanent", or "recoverable" if lambda comes back when the similarity
            falls again.
        convention: "layersync", as train.py: the warm-up is lambda (s + 1) / W at step s, the
            average starts at 0 and is divided by the sum of its weights, a step's similarity
            counts from the next step on, and lambda is 0 over the threshold. "simpletuner": the
            warm-up is lambda s / W, the average starts at the first similarity, a step's
            similarity counts in that very step, and lambda is 0 at the threshold too.

    Raises `ValueError` that names the field and its value.
    """

    weight: float = 1.0
    scheduler: str = "constant"
    warmup_steps: int = 0
    decay_steps: int | None = None
    weight_end: float = 0.0
    power: float = 1.0
    cutoff_step: int | None = None
    similarity_threshold: float | None = None
    similarity_decay: float = 0.99
    threshold_mode: str = "permanent"
    convention: str = "layersync"

    def __post_init__(self):
        for name, known in (
            ("scheduler", tuple(LEFT)), ("threshold_mode", MODES), ("convention", CONVENTIONS)
        ):  # fmt: skip
            self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")
        for name in ("weight", "weight_end"):
            value = getattr(self, name)
            self._require(name, is_number(value) and value >= 0, "a finite number of at least 0")
        for name in ("warmup_steps", "decay_steps", "cutoff_step"):
            value = getattr(self, name)
            given = type(value) is int and value >= 0
            optional = value is None and name != "warmup_steps"
            self._require(name, given or optional, "a number of steps, at least 0")
        self._require("power", is_number(self.power) and self.power > 0, "above 0")
        decay, threshold = self.similarity_decay, self.similarity_threshold
        self._require("similarity_decay", is_number(decay) and 0 <= decay < 1, "in [0, 1)")
        finite = threshold is None or is_number(threshold)
        self._require("similarity_threshold", finite, "a finite number, or None")
        if self.scheduler != "constant" and self.decay_steps is None:
            raise ValueError(
                f"decay_steps is missing: the {self.scheduler} schedule needs the step at which "
                f"weight_end is reached, the last one of the run for instance"
            )

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{name} {getattr(self, name)!r}: it must be {what}")

    @property
    def needs_step(self) -> bool:
        """True if lambda depends on the step."""
        cut = self.cutoff_step is not None
        return self.scheduler != "constant" or self.warmup_steps > 0 or cut

    @property
    def tracks(self) -> bool:
        """True if an average of the similarity is kept: SimpleTuner logs it in any case."""
        return self.similarity_threshold is not None or self.convention == "simpletuner"

    def at(self, step: int) -> float:
        """Return lambda of the step that follows `step` steps, the threshold apart."""
        if self.cutoff_step is not None and step >= self.cutoff_step:
            return 0.0
        if step < self.warmup_steps:
            done = step + 1 if self.convention == "layersync" else step
            return self.weight * done / self.warmup_steps
        if self.scheduler == "constant":
            return self.weight
        assert self.decay_steps is not None  # for it is not constant
        span = max(1, self.decay_steps - self.warmup_steps)
        left = LEFT[self.scheduler](min(1.0, (step - self.warmup_steps) / span), self.power)
        return self.weight_end + (self.weight - self.weight_end) * left


class ScheduledWeight:
    """lambda of a schedule, with the average of the similarity that may switch it off.

    The average stays on the device: nothing waits for it.

    Args:
        schedule: how lambda changes.
        reduce: returns the mean of a tensor over all processes, a collective; by default over
            torch.distributed's, where it is in use.
        device: where the average is kept; that of the similarities unless given.
    """

    def __init__(
        self,
        schedule: Schedule,
        reduce: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
    ):
        self.schedule, self.reduce = schedule, reduce or mean_over_processes
        # the average so far, the sum of its weights (it starts at 0), whether lambda is on
        self.state = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=device)

    def at(self, step: int | None) -> float | Tensor:
        """Return lambda now: a number, or a float64 scalar where a threshold is set.

        Raises `ValueError` where the schedule needs a step and `step` is None, or below 0.
        """
        if step is None and self.schedule.needs_step:
            raise ValueError(
                f"step is missing: {self.schedule} depends on it; call loss(step=...) with the "
                f"number of steps done before this one"
            )
        if step is not None and step < 0:
            raise ValueError(f"step {step}: it must be a number of steps done, at least 0")
        weight = self.schedule.at(step or 0)
        return weight if self.schedule.similarity_threshold is None else weight * self.state[2]

    def step(self, similarity: Tensor, step: int | None) -> float | Tensor:
        """Return lambda of a training step with this process's mean similarity; update the average.

        In SimpleTuner's convention the update comes first.
        """
        if self.schedule.convention == "simpletuner":
            self.at(step)  # what is refused changes nothing
            self.update(similarity)
            return self.at(step)
        weight = self.at(step)
        self.update(similarity)
        return weight

    def update(self, similarity: Tensor) -> None:
        """Take this process's mean similarity, if finite, into the average, if one is kept."""
        if not self.schedule.tracks:
            return
        s = self.schedule
        mean = self.reduce(similarity.detach().double())
        average, weights, active = self.state.to(mean.device)
        if s.convention == "simpletuner":
            average = torch.where(weights == 0, mean, s.similarity_decay * average
                                  + (1 - s.similarity_decay) * mean)  # fmt: skip
            weights = torch.ones_like(weights)
        else:
            average = s.similarity_decay * average + (1 - s.similarity_decay) * mean
            weights = s.similarity_decay * weights + (1 - s.similarity_decay)
        if s.similarity_threshold is not None:
            value = average / weights
            under = value < s.similarity_threshold
            if s.convention == "layersync":
                under = value <= s.similarity_threshold
            on = under.double()
            active = on * active if s.threshold_mode == "permanent" else on
        # one that is not finite, of a step that a GradScaler skips, would stay in it for ever
        after = torch.stack([average, weights, active])
        self.state = torch.where(mean.isfinite(), after, self.state.to(mean.device))

    @property
    def average(self) -> Tensor:
        """The average of the similarity, a float64 scalar; nan before the first."""
        return self.state[0] / self.state[1]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint must keep, on the CPU: three float64, or nothing."""
        return {STATE: self.state.cpu()} if self.schedule.tracks else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; `ValueError` where it is missing or something else."""
        if not self.schedule.tracks:
            return
        if STATE not in state:
            raise ValueError(
                f"{STATE!r} is missing in the state, which holds {sorted(state)}: it was saved "
                f"without an average of the similarity"
            )
        saved = state[STATE]
        if tuple(saved.shape) != (3,):
            raise ValueError(f"{STATE!r}: expected three numbers, got shape {tuple(saved.shape)}")
        self.state = saved.to(self.state.device, torch.float64)


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a tensor over torch.distributed's processes, or itself without them."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def is_number(value) -> bool:
    """Return whether this is a finite int or float (a bool is neither)."""
    return type(value) in (int, float) and math.isfinite(value)
