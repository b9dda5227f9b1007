"""Types of settings: which values of a file fit a flag, and how the flag is written with them."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import tyro

from runtime.flags import flag

UNSET = "None"  # as the command line writes None


@dataclass(frozen=True)
class FieldType:
    """Type of a field, of those that settings have."""

    kind: Any
    """as it was declared: bool, int, float, str, a Literal, a tuple of them, or one of these and
    None"""

    def words(self, name: str, value: Any) -> list[str]:
        """Return the flag `name` with a value; none to leave it unset.

        Raises `ValueError` that says what is expected for a value of another type.
        """
        if value is None or value == UNSET:
            return [flag(name), UNSET] if accepts(self.kind, None) else []
        if not accepts(self.kind, value):
            raise ValueError(f"{shown(value)} must be {wanted(self.kind)}")
        if isinstance(value, bool):
            return [flag(name) if value else flag("no_" + name)]
        if isinstance(value, list | tuple):
            return [flag(name), *map(as_word, value)]
        word = as_word(value)
        return [f"{flag(name)}={word}"] if word.startswith("-") or not word else [flag(name), word]


@cache
def field_types(config: Callable) -> dict[str, FieldType]:
    """Return the types of a dataclass's fields, and of those in the dataclasses it holds.

    Positional words of a command line are left out: no file gives them.
    """
    kinds: dict[str, FieldType] = {}
    for name, kind in typing.get_type_hints(config, include_extras=True).items():
        marks: tuple[Any, ...] = ()
        if typing.get_origin(kind) is Annotated:
            kind, *more = typing.get_args(kind)
            marks = tuple(more)
        if typing.get_origin(kind) is typing.ClassVar or tyro.conf.Positional in marks_of(marks):
            continue
        if dataclasses.is_dataclass(kind):
            kinds |= field_types(typing.cast(Callable, kind))
        else:
            kinds[name] = FieldType(kind)
    return kinds


def marks_of(marks: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return annotations, and the markers that tyro's own aliases stand for."""
    positional = typing.get_args(tyro.conf.Positional[str])[1:]
    return (tyro.conf.Positional,) if any(mark in positional for mark in marks) else ()


def accepts(kind: Any, value: Any) -> bool:
    """Return whether a value of a file is one of this type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(accepts(each, value) for each in inner)
    if origin is Literal:
        return isinstance(value, str | int) and str(value) in map(str, inner)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if inner[-1] is Ellipsis:
            return all(accepts(inner[0], each) for each in value)
        return len(value) == len(inner) and all(map(accepts, inner, value))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if kind in (None, type(None)):
        return value is None
    return type(value) is kind


NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def wanted(kind: Any) -> str:
    """Say in words which values are of a type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(wanted(each) for each in inner if each is not type(None))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list of {count}values, each {wanted(inner[0])}"
    return NAMES[kind]


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def as_word(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
