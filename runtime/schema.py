"""Settings read back from a file: into a dataclass, unless the file was altered."""

import dataclasses
import json
import math
import typing
from pathlib import Path

LARGEST = 2**53  # the largest whole number of JSON in other languages than Python


def read_json(path: str | Path):
    """Read any JSON value; `ValueError`, without the file's name, for another content."""
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


def from_dict(kind: type, content: dict):
    """Build a dataclass of numbers and texts from what a file says.

    Other keys of `content` are ignored. Raises `ValueError` for a missing or mistyped field, and
    for numbers that are negative or not finite: none of these settings can be.
    """
    fields, types = dataclasses.fields(kind), typing.get_type_hints(kind)
    if missing := sorted(field.name for field in fields if field.name not in content):
        raise ValueError(f"without {missing}")
    for field in fields:
        check_value(field.name, content[field.name], types[field.name])
    return kind(**{field.name: content[field.name] for field in fields})


def check_value(name: str, value, kind: type) -> None:
    """Raise `ValueError` unless a value is of the type `kind` and, as a number, 0 or more."""
    fits = {
        int: type(value) is int and 0 <= value < LARGEST,
        float: type(value) in (int, float) and 0 <= value < math.inf,
        str: type(value) is str,
        list: type(value) is list,
        dict: type(value) is dict,
    }
    if not fits[kind]:
        raise ValueError(f"{name} is {str(value)[:60]!r}")


def check_file_name(name: str, value) -> None:
    """Raise `ValueError` unless a value names a file in the same folder, and no other place."""
    check_value(name, value, str)
    if value in ("", ".", "..") or "/" in value or "\0" in value or Path(value).name != value:
        raise ValueError(f"{name} is {value[:60]!r}, which is not the name of a file in its folder")
