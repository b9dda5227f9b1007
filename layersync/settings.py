"""LayerSync as SimpleTuner's users configure it: four settings, in a dict or in JSON.

    {"layersync_enabled": true, "layersync_student_block": 8, "layersync_teacher_block": 16,
     "layersync_lambda": 0.2}

Names, meaning and defaults are those of SimpleTuner's documentation, with two differences. A
teacher must be named: there it defaults to the student, and the loss to a constant without a
gradient. And numbers count from 1 only: there, one that is too large is tried as an index from 0.
Values may be texts, "8", "0.2" or "true", as they stand in command lines and environments.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from layersync.pairs import Pair, is_positive

PREFIX = "layersync_"
DEFAULT_LAMBDA = 0.2


@dataclass(frozen=True)
class Settings:
    """One pair and its weight. Raises `ValueError` for values that do not make sense."""

    student_block: int | None = None
    teacher_block: int | None = None
    lambda_: float = DEFAULT_LAMBDA

    def __post_init__(self):
        for role in ("student", "teacher"):
            number = getattr(self, f"{role}_block")
            name = f"{PREFIX}{role}_block"
            if number is None:
                raise ValueError(f"{name} is missing: the number of the {role}, counted from 1")
            if type(number) is not int or number < 1:
                raise ValueError(f"{name}: {number!r} is not a block number; they count from 1")
        if self.student_block >= self.teacher_block:
            equal = self.student_block == self.teacher_block
            why = ": equal blocks have the constant loss -1, without a gradient" if equal else ""
            raise ValueError(
                f"{PREFIX}teacher_block: {self.teacher_block} is not deeper than "
                f"{PREFIX}student_block, {self.student_block}{why}; choose a deeper teacher"
            )
        if not is_positive(self.lambda_):
            raise ValueError(
                f"{PREFIX}lambda: {self.lambda_!r} must be a finite number above 0; "
                f"to train without, set {PREFIX}enabled to false"
            )

    @property
    def pair(self) -> Pair:
        # both are numbers, as was checked when this was made
        return self.student_block, self.teacher_block  # type: ignore[return-value]


def read_settings(source: Mapping[str, Any] | str | os.PathLike) -> Settings | None:
    """Return the `layersync_` settings in a dict, a JSON text, or a JSON file; None if off.

    A text that starts with `{` is JSON, any other a path. Other settings are left alone, so that a
    whole configuration can be given; a leading `--`, as in SimpleTuner's files, is dropped. Off is
    `layersync_enabled` false or not there.

    Raises `TypeError` or `ValueError` that names the setting, its value and the remedy.
    """
    known = [f"{PREFIX}{name}" for name in ("enabled", "student_block", "teacher_block", "lambda")]
    given = pick(load(source), PREFIX, known, "LayerSync")
    if not as_bool(f"{PREFIX}enabled", given.pop(f"{PREFIX}enabled", False)):
        return None
    values = {}
    for name in ("student_block", "teacher_block"):
        values[name] = number(given.get(f"{PREFIX}{name}"), int)
    lambda_ = number(given.get(f"{PREFIX}lambda"), float)
    return Settings(**values, **({} if lambda_ is None else {"lambda_": lambda_}))


def load(source: Mapping[str, Any] | str | os.PathLike) -> Mapping[str, Any]:
    """Return the settings that a dict, a JSON text or a file hold, whatever they are called."""
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"settings: expected a dict, JSON text or a path, got {type(source).__name__}"
        )
    if isinstance(source, str) and source.lstrip().startswith("{"):
        text = source
    else:
        try:
            text = Path(source).read_text()
        except OSError as error:
            raise ValueError(
                f"settings: {str(source)!r:.100} cannot be read ({error.strerror or error}); give "
                f"a path, or JSON that starts with {{"
            ) from None
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"settings: {str(source)!r:.100} is not JSON ({error})") from None
    if not isinstance(loaded, dict):
        raise ValueError(f"settings: {str(source)!r:.100} is JSON, but not an object of settings")
    return loaded


def pick(
    settings: Mapping[str, Any], prefix: str, known: Sequence[str], whose: str
) -> dict[str, Any]:
    """Return the settings that start with `prefix`; `ValueError` for one that is not `known`."""
    given = {str(key).removeprefix("--"): value for key, value in settings.items()}
    given = {key: value for key, value in given.items() if key.startswith(prefix)}
    for key, value in given.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{key}: {value!r} is not a setting of {whose}; {meant}")
    return given


def as_bool(name: str, value: Any) -> bool:
    """Return a bool, or one written as "true" or "false"; `ValueError` for anything else."""
    texts = {"true": True, "false": False}
    if isinstance(value, str):
        value = texts.get(value.strip().lower(), value)
    if type(value) is not bool:
        raise ValueError(f"{name}: {value!r} is neither true nor false")
    return value


def number(value: Any, kind: type) -> Any:
    """Return a text as the int or float that it writes; all else as it is, for later checks."""
    if not isinstance(value, str):
        return value
    try:
        return kind(value)
    except ValueError:
        return value
