"""Settings of a training run: numbers outside their ranges are refused by name."""

import dataclasses
import math

import pytest

from training.checks import RANGES, check_train_config
from training.config import TrainConfig


def changed(name: str, value) -> TrainConfig:
    """The default settings with one field changed, wherever it is."""
    config = TrainConfig()
    if hasattr(config, name):
        return dataclasses.replace(config, **{name: value})
    for field in dataclasses.fields(config):
        group = getattr(config, field.name)
        if dataclasses.is_dataclass(group) and hasattr(group, name):
            return dataclasses.replace(
                config, **{field.name: dataclasses.replace(group, **{name: value})}
            )
    raise AssertionError(name)


OURS = sorted(set(RANGES) - {"batch_size", "seed", "shard_size"})


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1e300])
def test_every_number_with_a_range_is_kept_in_it(name, value):
    value = (value, 0.5) if name == "betas" else value
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} .*: it must be"):
        check_train_config(changed(name, value))


def test_the_defaults_are_in_their_ranges():
    check_train_config(TrainConfig())
