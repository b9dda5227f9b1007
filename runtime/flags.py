"""Settings as flags: how messages name them, checks of their values, which may change later."""

import dataclasses
import math
from dataclasses import dataclass


def free(default):
    """Declare a field that may change when a run is resumed: it shapes nothing a run computes."""
    return dataclasses.field(default=default, metadata={"free": True})


def plain(value):
    """JSON knows no tuples."""
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
    """What numbers a setting may be: finite, from `low` to `high`, the ends included.

    Args:
        above: leave `low` itself out.
        below: leave `high` itself out.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low < value if self.above else self.low <= value)
            and (value < self.high if self.below else value <= self.high)
        )

    def __str__(self) -> str:
        low = f"more than {self.low:,}" if self.above else f"at least {self.low:,}"
        return f"{low} and {'less than' if self.below else 'at most'} {self.high:,}"


def check_ranges(config, ranges: dict[str, Range]) -> None:
    """Raise `ValueError` that names the flag, unless every number is in its range.

    Args:
        config: a dataclass of settings; None is in every range, and of a tuple each number counts.
        ranges: by the names of its fields. Names that it does not have are passed over.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in ranges or value is None:
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if number not in ranges[field.name]:
                raise ValueError(f"{flag(field.name)} {number}: it must be {ranges[field.name]}")
