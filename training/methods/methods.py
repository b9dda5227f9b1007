"""The table of methods that --loss-type can name, and what a run asks of all of them.

To add one: a file beside this one (training/methods/method.py says what is in it), a row here, and
in training/config.py a field with its settings and a word of --loss-type.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING

from training.methods.layer_sync import LayerSyncSettings
from training.methods.method import Materials, Method, Regularizer

if TYPE_CHECKING:
    from training.config import TrainConfig

# word of --loss-type: where its settings are. In this order they are made, logged and saved.
METHODS: dict[str, Callable[[TrainConfig], Method]] = {
    "layer_sync": LayerSyncSettings.of,
    "dispersive": attrgetter("dispersive"),
    "sra": attrgetter("sra"),
    "repa": attrgetter("repa"),
}
SYNONYMS = {"multiple_sync": "layer_sync"}


def named_methods(c: TrainConfig) -> list[str]:
    """Return the words of the table that the loss type names, in the table's order."""
    words = [SYNONYMS.get(word, word) for word in c.loss_type.split("+")]
    return [word for word in METHODS if word in words]


def methods_of(c: TrainConfig) -> list[Method]:
    """Return the methods of a run: those that the loss names, and those that are watched."""
    named = named_methods(c)
    every = {word: settings(c) for word, settings in METHODS.items()}
    return [method for word, method in every.items() if word in named or method.watched]


def check_methods(c: TrainConfig) -> None:
    """Refuse bad values of any method, and flags of methods that the loss does not name."""
    named = named_methods(c)
    for word, settings in METHODS.items():
        method = settings(c)
        if word not in named:
            method.check_unused(c, named)
        method.check(c)


def check_pass(c: TrainConfig, samples: int) -> None:
    """Refuse too few `samples` in a forward pass of one process."""
    for method in methods_of(c):
        method.check_pass(c, samples)


def folder_parts(c: TrainConfig) -> list[str]:
    """Return what a run's name says of its methods: blocks and weights."""
    return [part for method in methods_of(c) for part in method.folder_parts(c.model)]


def trains_heads(c: TrainConfig) -> bool:
    return any(method.trains_head for method in methods_of(c))


def make_regularizers(given: Materials) -> list[Regularizer]:
    """Make the regularisers of a run, on the accelerator's device.

    `ValueError` for blocks that the network does not have, and for what the data cannot give.
    """
    return [method.make(given) for method in methods_of(given.config)]
