"""Finished or running training runs, read from their folders: settings, curves, sample grids."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from runtime.schema import read_json
from training.config import TrainConfig
from training.methods.method import Setting
from training.settings_record import resolved_settings, restore
from training.tracking import read_log

UNIMPORTANT = (
    "config",
    "results_dir",
    "run_name",
    "wandb",
    "wandb_run_name",
    "resume",
    "num_workers",
)


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells it.

    Args:
        name: what tables and pictures call it.
        rows: lines of its metrics.jsonl, each with `step`.
    """

    name: str
    folder: Path
    config: TrainConfig
    rows: list[dict]

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return the steps at which a number was logged, and its values; not finite ones are left
        out."""
        points = [(row["step"], row[key]) for row in self.rows if is_number(row.get(key))]
        return [step for step, _ in points], [value for _, value in points]

    def keys(self, pattern: str) -> list[str]:
        """Return the names of logged numbers that match a regular expression, in order."""
        names = dict.fromkeys(key for row in self.rows for key in row)
        return [name for name in names if re.fullmatch(pattern, name)]

    def grids(self) -> dict[int, Path]:
        """Return the sample grids made while training, by step."""
        paths = sorted((self.folder / "samples").glob("[0-9]*.png"))
        return {int(path.stem): path for path in paths if path.stem.isdigit()}


def read_run(folder: str | Path, name: str = "") -> RunRecord:
    """Read the folder of a run; `ValueError` if it holds none."""
    folder = Path(folder)
    for needed in ("config.json", "metrics.jsonl"):
        if not (folder / needed).is_file():
            raise ValueError(f"{folder}: no {needed} there; give the folder of a training run")
    try:
        stored = read_json(folder / "config.json")
        config = restore(stored)
        resolved_settings(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'config.json'}: not of a training run ({error})") from None
    rows = read_log(folder / "metrics.jsonl")
    rows = [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]
    if not rows:
        raise ValueError(f"{folder / 'metrics.jsonl'}: nothing was logged yet")
    return RunRecord(name or folder.name, folder, config, rows)


def read_runs(folders: list[str]) -> list[RunRecord]:
    """Read several runs, under names that tell them apart."""
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("a run is given twice")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.name}" for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def differing_settings(runs: list[RunRecord]) -> dict[str, list[Setting | None]]:
    """Return the settings in which runs differ, with each run's value as it was in force.

    Where results lie and how data is read does not count.
    """
    settings = [resolved_settings(run.config) for run in runs]
    names = dict.fromkeys(name for each in settings for name in each if name not in UNIMPORTANT)
    table = {name: [each.get(name) for each in settings] for name in names}
    return {name: values for name, values in table.items() if len(set(map(repr, values))) > 1}


def smoothed(values: list[float], weight: float) -> list[float]:
    """Return an exponential moving average, without a bias towards 0 at its start.

    Args:
        weight: of the past at each value, in [0, 1); 0 changes nothing.
    """
    averages, total = [], 0.0
    for i, value in enumerate(values, start=1):
        total = weight * total + (1 - weight) * value
        averages.append(total / (1 - weight**i))
    return averages


LINES_ACROSS = 20  # moving averages that a curve is made of, each of lines of its own
MOST_WEIGHT = 0.9


def weight_for(count: int, given: float | None) -> float:
    """Return the weight of the past for a curve of so many values: short ones would lag behind."""
    return given if given is not None else min(MOST_WEIGHT, max(0.0, 1 - LINES_ACROSS / count))


def same_noise(runs: list[RunRecord]) -> bool:
    """Return whether the grids of these runs are of the same noise, labels and guidance."""
    keys = ("global_seed", "image_size", "num_classes", "vae", "cfg_scale")
    return len({tuple(getattr(run.config, key) for key in keys) for run in runs}) == 1


def common_grids(runs: list[RunRecord]) -> dict[str, Path]:
    """Return the sample grid of each run at the last step at which all of them have one."""
    shared = set.intersection(*(set(run.grids()) for run in runs))
    return {run.name: run.grids()[max(shared)] for run in runs} if shared else {}
