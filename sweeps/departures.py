"""The settings of a command that are not at their defaults, and so determine its numbers.

Recipes of cells are made of these, so a setting that a later version adds changes no recipe.
"""

import dataclasses

from runtime.flags import tuple_as_list
from sampling.sample_config import ODE, SDE
from sampling.solver_config import solver_settings
from training.config import TrainConfig

PER_CELL = ("config", "ckpt", "out", "sample_dir", "global_seed", "preset", "save_png")

FORMER_DEFAULTS = {"image_size": 256, "num_classes": 1000, "vae": "ema"}
"""Defaults of an earlier version, which recipes made then leave out."""


def departures(config, free: bool = True) -> dict:
    """Return the settings that are not at their defaults.

    Args:
        free: whether to include settings that do not change what a training run computes.
    """
    changed: dict = {}
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(value):
            changed |= departures(value, free)
        elif value != default and (free or not field.metadata.get("free")):
            changed[field.name] = tuple_as_list(value)
    return changed


def training_recipe(config: TrainConfig) -> dict:
    changed = departures(config, free=False).items()
    return {key: value for key, value in changed if FORMER_DEFAULTS.get(key) != value} | {
        "max_steps": config.max_steps,
        "data_path": config.data_path,
        "ckpt": config.ckpt,
    }


def sampling_recipe(config: ODE | SDE) -> dict:
    own = {"solver": type(config).__name__, **departures(config)}
    return {key: value for key, value in own.items() if key not in PER_CELL}


def expected_of_samples(config: ODE | SDE) -> dict:
    """Return the values that the recipe in the samples must hold."""
    return {
        "num_samples": config.num_fid_samples,
        "cfg_scale": config.cfg_scale,
        "guidance_interval": config.guidance_interval,
        "solver": solver_settings(config),
    }


def evaluation_recipe(config) -> dict:
    changed = departures(config)
    return {k: v for k, v in changed.items() if k not in ("samples", "out", "results")}
