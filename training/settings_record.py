"""A run's settings as they were in force: as values, as its config.json, and read back.

A flag that is left to the model or the data (blocks, lambda, data set) has the value that it has
there. config.json holds the flags by name, which `train.py --config results/RUN/config.json` takes;
one that is unset is left out. Earlier versions wrote them in groups, as checkpoints have them.
"""

import dataclasses
import typing
from pathlib import Path

from runtime.flags import flag, tuple_as_list
from runtime.settings_chain import Section
from training.config import TrainConfig
from training.methods.method import Setting
from training.methods.methods import methods_of

OF_ONE_RUN = ("resume", "results_dir", "run_name", "wandb_run_name", "config")
"""Settings that another run does not take from a run's config.json."""
PATHS = ("data_path", "val_data_path")  # recorded so that they hold from any working directory
MADE_BY = "made_by"  # key of config.json with this project's version


def in_force(config: TrainConfig) -> TrainConfig:
    """Return the settings with those that are left to the model or the data set to their values.

    `ValueError` for blocks that the model does not have.
    """
    resolved: dict[str, Setting] = {}
    for method in methods_of(config):
        resolved |= method.resolved(config.model)
    if not config.data_path:
        resolved["dataset_name"] = config.data_name
    for name in PATHS:
        value = getattr(config, name)
        if value and Path(value).exists():
            resolved[name] = str(Path(value).absolute())
    return replaced(config, resolved)


def replaced(settings, values: dict):
    """Return a dataclass with fields replaced, also in the dataclasses it holds."""
    changed = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = replaced(value, values)
        elif field.name in values:
            changed[field.name] = values[field.name]
    return dataclasses.replace(settings, **changed)


def resolved_settings(config: TrainConfig) -> dict[str, Setting]:
    """Return {name of the flag, with underscores: value}, each a bool, int, float or text."""
    values = flat(dataclasses.asdict(config))
    for method in methods_of(config):
        values |= method.resolved(config.model)
    return {name: as_text(value) for name, value in values.items()}


def as_text(value) -> Setting:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def flat(settings: dict) -> dict[str, typing.Any]:
    """Return nested settings on one level; those that are None are left out."""
    rows: dict[str, typing.Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            rows |= flat(value)
        elif value is not None:
            rows[key] = value
    return rows


def run_record(config: TrainConfig) -> dict:
    """Return what config.json holds, of settings `in_force`."""
    import layersync  # imports torch

    return {MADE_BY: f"layersync {layersync.__version__}"} | flat(dataclasses.asdict(config))


def settings_of_record(content: dict) -> dict | None:
    """Return the flags with which a run is repeated, from its config.json; None for another file.

    Settings that there no longer are, are passed over. A run that was continued is repeated from
    its beginning.
    """
    if MADE_BY not in content and not is_grouped(content):
        return None
    at_work = content.get("in_force")  # of an earlier version, where lists are texts
    settings = flat({key: value for key, value in content.items() if key != "in_force"})
    for key, value in at_work.items() if isinstance(at_work, dict) else ():
        settings.setdefault(key, value)
    if not settings.get("fine_tune"):
        settings.pop("ckpt", None)
    known = [key for key in names_of(TrainConfig) if key not in OF_ONE_RUN]
    return {key: settings[key] for key in known if key in settings}


RUN_SECTION = Section("train", from_record=settings_of_record)


def is_grouped(content: dict) -> bool:
    """Return whether settings are in groups, as in checkpoints and in earlier config.json."""
    return any(isinstance(content.get(name), dict) for name in ("transport", "optim"))


def names_of(kind: type) -> list[str]:
    """Return the names of a dataclass's fields and of those in the dataclasses it holds."""
    names, types = [], typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = types[field.name]
        names += (
            names_of(inner)
            if isinstance(inner, type) and dataclasses.is_dataclass(inner)
            else [field.name]
        )
    return names


def stored_in_force(stored: dict) -> dict:
    """Return the settings `in_force` that a checkpoint or a config.json says, in groups.

    Those that a checkpoint does not name are left out. `ValueError` for blocks that the model does
    not have.
    """
    known = dataclasses.asdict(in_force(restore(stored)))
    if not is_grouped(stored):
        return known
    return {key: value for key, value in known.items() if key in stored or isinstance(value, dict)}


def restore(stored: dict, kind=TrainConfig):
    """Rebuild settings from what `config.json` or a checkpoint says, also an older version's.

    Settings that it does not name have their defaults, and those that there no longer are, are
    passed over.
    """
    values, types = {}, typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        own = types[field.name]
        if dataclasses.is_dataclass(own):
            inner = stored.get(field.name, stored)  # on one level unless there is such a group
            values[field.name] = restore(inner, own) if isinstance(inner, dict) else inner
        elif field.name in stored:
            value = stored[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def made_without(settings: typing.Any) -> dict:
    """Return the defaults of settings that a checkpoint does not know: it was made with them."""
    return dataclasses.asdict(type(settings)())


def differences(config: typing.Any, stored: dict) -> list[str]:
    """Return where a checkpoint's config differs, in settings that shape what a run computes."""
    lines = []
    for each in dataclasses.fields(config):
        default = None if each.default is dataclasses.MISSING else each.default
        # a setting that the checkpoint does not know had no other value
        now, before = getattr(config, each.name), stored.get(each.name, default)
        if dataclasses.is_dataclass(now):
            lines += differences(now, before if isinstance(before, dict) else made_without(now))
        elif not each.metadata.get("free") and tuple_as_list(now) != tuple_as_list(before):
            lines.append(f"{flag(each.name)}: {before} there, {now} here")
    return lines
