"""Checks of the values that a flag of a grid lists, one after the other."""

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
    if len({f"{value:g}" for value in values}) < len(values):
        given = " ".join(f"{value:g}" for value in values)
        raise ValueError(f"{flag} {given}: one is given twice")
