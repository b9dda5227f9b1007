"""A run's settings as trackers and tables of runs show them: flat, typed, and what was in force.

A flag that is left to the model (blocks, lambda) has the value that it has there; one that is unset
and means nothing is left out.
"""

import dataclasses
import typing

from training.config import TrainConfig
from training.methods.method import Setting
from training.methods.methods import methods_of


def resolved_settings(config: TrainConfig) -> dict[str, Setting]:
    """Return {name of the flag, with underscores: value}, each a bool, int, float or text."""
    values = flat(dataclasses.asdict(config))
    for method in methods_of(config):
        values |= method.resolved(config.model)
    return values


def flat(settings: dict) -> dict[str, Setting]:
    """Return nested settings on one level; those that are None are left out."""
    rows: dict[str, Setting] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            rows |= flat(value)
        elif isinstance(value, list | tuple):
            rows[key] = " ".join(map(str, value))
        elif value is not None:
            rows[key] = value
    return rows


def restore(stored: dict, kind=TrainConfig):
    """Rebuild settings from what `config.json` or a checkpoint says, also an older version's.

    Settings that it does not name have their defaults, and those that there no longer are, are
    passed over.
    """
    values, types = {}, typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in stored:
            continue
        value, own = stored[field.name], types[field.name]
        if dataclasses.is_dataclass(own) and isinstance(value, dict):
            value = restore(value, own)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
