"""Settings as flags: how messages name them, checks of their values, which may change later."""

import dataclasses
import math
from dataclasses import dataclass


def free(default):
    """Declare a field that may change when a run is resumed: it shapes nothing a run computes."""
    return dataclasses.field(default=default, metadata={"free": True})


def tuple_as_list(value):
    """Return a value as JSON gives it back: a tuple is a list there."""
    return list(value) if isinstance(value, tuple) else value


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def require(config, name: str, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{flag(name)} {getattr(config, name)}: it must be {what}")


def check_numbers(config) -> None:
    """Refuse numbers that no setting means: NaN, infinity, integers that 64 bits do not hold.

    Args:
        config: a dataclass of settings, which may hold others and tuples of numbers.

    Raises `ValueError` that names the flag.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_numbers(value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{flag(field.name)} {number}: it must be a finite number")
            if isinstance(number, int) and abs(number) >= 2**63:
                raise ValueError(f"{flag(field.name)} {number}: it must be a number of 64 bits")


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may be: finite, from `low` to `high`, the ends included.

    Args:
        above: leave `low` itself out.
        below: leave `high` itself out.
        what: how an error describes the range below which a value lies; made of the ends unless
            given.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    what: str = ""

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low < value if self.above else self.low <= value)
            and (value < self.high if self.below else value <= self.high)
        )

    def wanted(self, value: float) -> str:
        """Say what a value that is not in the range must be."""
        if self.high <= 1:
            ends = "(" if self.above else "[", ")" if self.below else "]"
            return self.what or f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}"
        if value >= self.high and math.isfinite(value):
            return f"{'less than' if self.below else 'at most'} {self.high:,}"
        if self.what:
            return self.what
        if self.above:
            return "positive" if self.low == 0 else f"more than {self.low:,}"
        return f"at least {self.low:,}"


SEED = Range(0, 2**63, below=True)  # which NumPy, torch and JSON all take
COUNT, EVERY = Range(1, 10**12), Range(0, 10**12)  # of steps; an interval may be 0, for never
COMMON = {  # settings that several commands have, by the name of their flag
    "image_size": Range(1, 2**14),
    "num_classes": Range(1, 10**6),
    "num_workers": Range(0, 2**10),
    "batch_size": Range(1, 2**20),
    "shard_size": Range(1, 2**24),
    "min_free_disk": Range(0, 10**6),
    "cfg_scale": Range(1, 10**6, what="at least 1, which means no guidance"),
    "seed": SEED,
    "global_seed": SEED,
    "train_eps": Range(0, 0.5, below=True),
    "sample_eps": Range(0, 0.5, below=True),
}


def check_ranges(config, ranges: dict[str, Range]) -> None:
    """Raise `ValueError` that names the flag, unless every number is in its range.

    Args:
        config: a dataclass of settings, which may hold others. None is in every range, and of a
            tuple each number counts.
        ranges: by the names of fields. Names that no field has are passed over.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, ranges)
        if field.name not in ranges:
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and number not in ranges[field.name]:
                wanted = ranges[field.name].wanted(number)
                raise ValueError(f"{flag(field.name)} {number}: it must be {wanted}")
