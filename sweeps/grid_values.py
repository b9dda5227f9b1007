"""Values that a flag of a grid lists, one after the other: their checks, and how they look."""

from collections.abc import Callable, Sequence


def check_values(flag: str, values: Sequence, holds: Callable[..., bool], what: str) -> None:
    """Raise `ValueError`, which names the flag, for no value, a wrong one, or one given twice.

    Args:
        holds: returns whether a value may be given.
        what: says what a value must be.
    """
    if not values:
        raise ValueError(f"the grid is empty: {flag} names none")
    for value in values:
        if not holds(value):
            raise ValueError(f"{flag} {value}: it must be {what}")
    if len(set(values)) < len(values):
        given = " ".join(map(exact, values))
        raise ValueError(f"{flag} {given}: one is given twice")


def exact(value: float) -> str:
    """Write a number as shortly as it reads back unchanged: 0.3, 1, 0.12345678, 1000001."""
    short = f"{value:g}"
    if isinstance(value, int):
        return str(value)
    return short if float(short) == value else repr(value)
