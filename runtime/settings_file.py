"""Settings from a file: --config FILE puts the flags that a TOML or JSON file holds before others.

    python train.py --config recipes/layersync_b2.toml --data-path /path/to/imagenet/train

Keys are flags, with or without dashes. What the command line gives overrides the file, and the file
overrides a preset, whose name it may hold. `extends = "parent.toml"`, a path from the file's own
folder, takes another file's settings, which this one overrides. The text "None" takes back what a
parent says; a flag that may be None has that value. A file may have the sections [train], [sample]
and [evaluate], of which each command takes its own, else it is one command's. No torch here.
"""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

from runtime.settings_chain import FLAG, Given, Section, read_chain, without_replaced
from runtime.settings_types import FieldType, field_types


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
    for key, setting in settings.items():
        if key not in known:
            raise ValueError(f"{setting.where}: {word} has no such flag")
    settings = {key: setting for key, setting in settings.items() if key not in ignored}
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
    words = [words_of(key, setting, known) for key, setting in left.items()]
    # words before the first flag stay there: a flag that takes any number of values would take them
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
    chosen = settings.pop(section.word, None) if section.word else None
    if chosen and chosen.value not in config:
        raise ValueError(f"{chosen.where}: {chosen.value!r} must be one of {', '.join(config)}")
    typed = own[0] if own and own[0] in config else None
    if chosen and typed and chosen.value != typed:
        raise ValueError(f"{chosen.where}: it is {chosen.value}, not {typed}: leave out {typed}")
    return (chosen.value if chosen else typed), own[1:] if typed else own


def read_settings_file(
    path: Path, section: Section, config: Callable | dict[str, Callable]
) -> dict[str, Given]:
    """Return {name of field: value} of a file and its parents; errors as in `expand_config`."""
    known = types_of(config, None)
    extra = () if section.word is None else (section.word,)
    return read_chain(path, section, (*known, *extra), alternatives(config), ())


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


def words_of(name: str, setting: Given, known: dict[str, FieldType]) -> list[str]:
    """Return a setting as words of a command line; `ValueError` for a value of another type."""
    try:
        return known[name].words(name, setting.value)
    except ValueError as error:
        raise ValueError(f"{setting.where}: {error}") from None
