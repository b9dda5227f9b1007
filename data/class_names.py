"""Agreement of two sources on the numbers of their classes, by the names of these.

A folder numbers its own class folders. One that lacks a class numbers those that come after it one
too low, and the labels of held-out images would mean other classes than those of the training data.
"""

import copy
from typing import Any

import numpy as np

from data.source_protocol import IndexedSource, Source
from runtime.command import warn


def number_alike(source: IndexedSource, trained_on: Source, given: str) -> IndexedSource:
    """Return `source` with the numbers that classes of these names have in `trained_on`.

    It is returned as it is where one of the two does not name its classes, with a warning if it has
    fewer of them, and with one where as many have no name in common.

    Args:
        given: the flag and the name of `source` in errors.

    Raises `ValueError` for a class that `trained_on` does not have.
    """
    theirs, ours = names_of(source), names_of(trained_on)
    if theirs is None or ours is None:
        there, here = source.num_classes, trained_on.num_classes
        if there and here and there < here:
            warn(
                f"{given}: {there} classes without names, and {here} in the data that is trained "
                f"on: they are taken for the first {there} of these"
            )
        return source
    if theirs == ours:
        return source
    if len(theirs) == len(ours) and not set(theirs) & set(ours):
        # tench and n01440764 are one class, which the names do not tell
        warn(
            f"{given}: its classes ({theirs[0]}, ...) have none of the names of those that are "
            f"trained on ({ours[0]}, ...): they are taken to be in the same order"
        )
        return source
    number = {name: n for n, name in enumerate(ours)}
    if unknown := [name for name in theirs if name not in number]:
        raise ValueError(
            f"{given}: {len(unknown)} of its {len(theirs)} classes ({', '.join(unknown[:3])}"
            f"{', ...' * (len(unknown) > 3)}) are not among the {len(ours)} of the data that is "
            f"trained on ({', '.join(ours[:3])}{', ...' * (len(ours) > 3)}); name them as there"
        )
    numbers = np.array([number[name] for name in theirs])
    renumbered: Any = copy.copy(source)
    renumbered.labels = numbers[source.labels]
    renumbered.class_names, renumbered.num_classes = ours, len(ours)
    return renumbered


def names_of(source: Source) -> list[str] | None:
    """Return the names of the classes, None where there are none, or they are but the numbers."""
    names = getattr(source, "class_names", None)
    return None if names is None or names == [str(n) for n in range(len(names))] else names
