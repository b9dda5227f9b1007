"""Settings as flags: how messages name them, checks of their values, which may change later."""

import dataclasses
import math


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
