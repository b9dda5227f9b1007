"""Settings from a file: --config FILE puts the flags that a TOML or JSON file holds before others.

    python train.py --config recipes/layersync_b2.toml --data-path /path/to/imagenet/train

Keys are flags, with or without dashes. What the command line gives overrides the file, and the file
overrides a preset, whose name it may hold. `extends = "parent.toml"`, a path from the file's own
folder, takes another file's settings, which this one overrides. The text "None" takes back what a
parent says; a flag that may be None has that value. A file may have the sections [train], [sample]
and [evaluate], of which each command takes its own, else it is one command's. No torch here.
"""

import itertools
import json
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from runtime.settings_types import FieldType, field_types

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
    """A value, and where it was found."""

    value: Any
    where: str
    """file, section and key, for messages"""


def expand_config(
    args: list[str], config: Callable | dict[str, Callable], section: Section
) -> list[str]:
    """Return the command line with the settings of --config FILE put before the other flags.

    Args:
        args: words of the command line; without --config FILE they are returned as they are.
        config: the dataclass that is made of them, or one for each first word.

    Raises `ValueError` that names file and key for what cannot be read, for unknown keys and values
    of a wrong type, and `OSError` for a file that is not there.
    """
    name, _ = take_flag(args)
    return args if name is None else [*inline_config(args, config, section), FLAG, name]


def inline_config(
    args: list[str],
    config: Callable | dict[str, Callable],
    section: Section,
    ignored: Iterable[str] = (),
) -> list[str]:
    """Return the command line with the settings of --config FILE in place of that flag.

    Args:
        ignored: names of fields that are not taken from the file.

    The rest is as for `expand_config`.
    """
    name, own = take_flag(args)
    if name is None:
        return args
    settings = read_settings_file(Path(name), section, config)
    word, own = first_word(own, settings, config, section)
    known = types_of(config, word)
    for key, found in settings.items():
        if key not in known:
            raise ValueError(f"{found.where}: {word} has no such flag")
    settings = {key: found for key, found in settings.items() if key not in ignored}
    return [*([word] if word else []), *put_before(own, settings, config, word)]


def put_before(
    own: list[str],
    settings: dict[str, Given],
    config: Callable | dict[str, Callable],
    word: str | None = None,
) -> list[str]:
    """Return a command line with settings put before its flags, which override them.

    Args:
        word: the first word, which is not in `own`.
    """
    known, given = types_of(config, word), flag_names(own)
    left = without_replaced(settings, given, alternatives(config))
    words = [words_of(key, found, known) for key, found in left.items()]
    # what is no flag stays ahead: a flag that takes any number of values would take it too
    first = next((i for i, each in enumerate(own) if each.startswith("-")), len(own))
    return [*own[:first], *itertools.chain.from_iterable(words), *own[first:]]


def take_flag(args: list[str]) -> tuple[str | None, list[str]]:
    """Return the file that --config names, and the other words; `ValueError` for two of them."""
    names: list[str] = []
    own: list[str] = []
    waiting = False
    for word in args:
        if waiting:
            names.append(word)
            waiting = False
        elif word == FLAG:
            waiting = True
        elif word.startswith(FLAG + "="):
            names.append(word.partition("=")[2])
        else:
            own.append(word)
    if waiting or "" in names:
        raise ValueError(f"{FLAG}: give it the name of a .toml or .json file")
    if len(names) > 1:
        raise ValueError(
            f"{FLAG} is given {len(names)} times ({', '.join(names)}): give one file, which may "
            f"extend another"
        )
    return (names[0] if names else None), own


def first_word(
    own: list[str],
    settings: dict[str, Given],
    config: Callable | dict[str, Callable],
    section: Section,
) -> tuple[str | None, list[str]]:
    """Return the word that chooses among commands, and the others; it is taken from `settings`."""
    if not isinstance(config, dict):
        return None, own
    found = settings.pop(section.word, None) if section.word else None
    if found and found.value not in config:
        raise ValueError(f"{found.where}: {found.value!r} must be one of {', '.join(config)}")
    typed = own[0] if own and own[0] in config else None
    if found and typed and found.value != typed:
        raise ValueError(f"{found.where}: it is {found.value}, not {typed}: leave out {typed}")
    return (found.value if found else typed), own[1:] if typed else own


def read_settings_file(
    path: Path, section: Section, config: Callable | dict[str, Callable]
) -> dict[str, Given]:
    """Return {name of field: value} of a file and its parents; errors as in `expand_config`."""
    known = types_of(config, None)
    extra = () if section.word is None else (section.word,)
    return read_chain(path, section, (*known, *extra), alternatives(config), ())


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
    found: dict[str, Given] = {}
    for key, value in content.items():
        name = key.removeprefix("--").replace("-", "_")
        if name not in known or name == FLAG.removeprefix("--"):
            near = get_close_matches(name, known, n=1)
            meant = near[0].replace("_", "-") if near else ""
            remedy = f"did you mean {meant}?" if meant else "the flags of --help are known"
            raise ValueError(f"{path}: {key}: no setting of [{section.name}]; {remedy}")
        if name in found:
            raise ValueError(f"{path}: {key}: given twice, with and without dashes")
        found[name] = Given(value, f"{path}: {key}")
    return found


def without_replaced(
    settings: dict[str, Given], given: Iterable[str], groups: Iterable[tuple[str, ...]]
) -> dict[str, Given]:
    """Return the settings but for those that `given` names, or for which it has an alternative."""
    replaced = set(given)
    for group in groups:
        replaced |= set(group) if replaced & set(group) else set()
    return {name: found for name, found in settings.items() if name not in replaced}


def alternatives(config: Callable | dict[str, Callable]) -> tuple[tuple[str, ...], ...]:
    """Return groups of fields that say the same: what comes later replaces the whole group."""
    kinds = config.values() if isinstance(config, dict) else (config,)
    return tuple(group for kind in kinds for group in getattr(kind, "ALTERNATIVES", ()))


def types_of(config: Callable | dict[str, Callable], word: str | None) -> dict[str, FieldType]:
    """Return the fields of a command, or of all of them while its first word is not known."""
    if not isinstance(config, dict):
        return field_types(config)
    if word in config:
        return field_types(config[word])
    return {name: kind for each in config.values() for name, kind in field_types(each).items()}


def flag_names(words: list[str]) -> list[str]:
    """Return the fields that the flags of a command line set."""
    flags = [word[2:].partition("=")[0].replace("-", "_") for word in words if word[:2] == "--"]
    return [*flags, *(name.removeprefix("no_") for name in flags)]


def words_of(name: str, found: Given, known: dict[str, FieldType]) -> list[str]:
    """Return a setting as words of a command line; `ValueError` for a value of another type."""
    try:
        return known[name].words(name, found.value)
    except ValueError as error:
        raise ValueError(f"{found.where}: {error}") from None
