"""Reading of a settings file and of the files that it extends."""

import json
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

SECTIONS = ("train", "sample", "evaluate")
FACTS = ("paper",)  # a section about the file, which no command takes
FLAG, EXTENDS = "--config", "extends"
MOST_PARENTS = 50


@dataclass(frozen=True)
class Section:
    """Part of a settings file that belongs to a command."""

    name: str
    """train, sample or evaluate"""
    word: str | None = None
    """key that gives the first word of the command line, where there are several commands"""
    from_record: Callable[[dict], dict | None] | None = None
    """makes settings of what the command itself has written: None for any other content"""
    readers: tuple[tuple[str, Callable[[Path], dict]], ...] = ()
    """(suffix, function) of files beyond .toml and .json that hold such a record"""


@dataclass(frozen=True)
class Given:
    """A value, and the place that gives it."""

    value: Any
    where: str
    """file, section and key, for messages"""


def read_chain(
    path: Path,
    section: Section,
    known: tuple[str, ...],
    groups: Iterable[tuple[str, ...]],
    above: tuple[Path, ...],
) -> dict[str, Given]:
    """Return the settings of a file, those of its parents included.

    Args:
        above: the files that led here, of which none may be extended again.
    """
    place = path.resolve()
    if place in above:
        chain = " -> ".join(file.name for file in (*above[above.index(place) :], place))
        raise ValueError(f"{path}: files extend each other in a circle, {chain}")
    if len(above) > MOST_PARENTS:
        raise ValueError(f"{above[0]}: {EXTENDS}: more than {MOST_PARENTS} files extend each other")
    content = read_content(path, section)
    parent = content.pop(EXTENDS, None)
    if parent is not None and not (isinstance(parent, str) and parent):
        raise ValueError(
            f'{path}: {EXTENDS}: {parent!r} must be a text, as in {EXTENDS} = "a.toml"'
        )
    inherited: dict[str, Given] = {}
    if parent is not None:
        file = path.parent / parent
        if not file.is_file():
            raise ValueError(f"{path}: {EXTENDS} = {parent!r}: there is no file {file}")
        inherited = read_chain(file, section, known, groups, (*above, place))
    own = named_settings(path, own_section(path, content, section), section, known)
    return without_replaced(inherited, own, groups) | own


def read_content(path: Path, section: Section) -> dict:
    """Read a file as a dict of settings, of which the name of its parent is one."""
    readers = dict(section.readers)
    if path.suffix in readers:
        content: Any = readers[path.suffix](path)
    elif path.suffix in (".toml", ".json"):
        kind = path.suffix[1:].upper()
        try:
            text = path.read_bytes().decode()
            content = tomllib.loads(text) if kind == "TOML" else json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: not {kind} ({reason})") from None
    else:
        others = "".join(f", {suffix}" for suffix in readers)
        raise ValueError(f"{FLAG} {path}: the name of its format must end it: .toml, .json{others}")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it must hold settings by name, as {{...}}")
    record = section.from_record(content) if section.from_record else None
    return dict(content if record is None else record)


def own_section(path: Path, content: dict, section: Section) -> dict:
    """Return the settings for a command: its section, or everything where there are no sections."""
    if not any(isinstance(content.get(name), dict) for name in (*SECTIONS, *FACTS)):
        return content
    for key, value in content.items():
        if key not in (*SECTIONS, *FACTS) or not isinstance(value, dict):
            near = get_close_matches(key, (*SECTIONS, EXTENDS), n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"{path}: {key}: {meant}A file with sections has nothing outside of "
                f"{', '.join(f'[{name}]' for name in (*SECTIONS, *FACTS))} but {EXTENDS}"
            )
    return content.get(section.name, {})


def named_settings(
    path: Path, content: dict, section: Section, known: tuple[str, ...]
) -> dict[str, Given]:
    """Return settings by the names of their fields; `ValueError` for an unknown key."""
    named: dict[str, Given] = {}
    for key, value in content.items():
        name = key.removeprefix("--").replace("-", "_")
        if name not in known or name == FLAG.removeprefix("--"):
            near = get_close_matches(name, known, n=1)
            meant = near[0].replace("_", "-") if near else ""
            remedy = f"did you mean {meant}?" if meant else "the flags of --help are known"
            raise ValueError(f"{path}: {key}: no setting of [{section.name}]; {remedy}")
        if name in named:
            raise ValueError(f"{path}: {key}: given twice, with and without dashes")
        named[name] = Given(value, f"{path}: {key}")
    return named


def without_replaced(
    settings: dict[str, Given], given: Iterable[str], groups: Iterable[tuple[str, ...]]
) -> dict[str, Given]:
    """Return the settings without those that `given` names or has an alternative to."""
    replaced = set(given)
    for group in groups:
        replaced |= set(group) if replaced & set(group) else set()
    return {name: setting for name, setting in settings.items() if name not in replaced}
