"""Settings of a row's three commands: its recipe, then its variant, then what the user adds.

    settings = settle(row, variant, Added(sample="--num-fid-samples 10000"))
    settings.train, settings.train_words        # a TrainConfig, and the flags that make it

A miniature replaces data, width and budget (sweeps/paper_miniature.py) before what the user adds.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from evaluation.__main__ import EVALUATE_SECTION, Score
from evaluation.options import check_metrics
from runtime.settings_file import inline_config
from sampling.presets import expand_preset
from sampling.sample_config import ODE, SDE, check_sample_config
from sampling.sample_file import SAMPLE_SECTION
from sweeps.command_words import parse_quietly, refuse
from sweeps.departures import departures
from sweeps.paper_miniature import miniature_words
from sweeps.paper_rows import PaperRow, Variant
from training.config import TrainConfig
from training.settings_record import RUN_SECTION

SET = {name: "which scripts/reproduce.py sets" for name in (
    "--global-seed", "--results-dir", "--run-name", "--resume", "--data-path", "--dataset-name",
    "--max-steps", "--epochs", "--config", "--ckpt", "--out", "--sample-dir", "--ref", "--results",
)}  # fmt: skip
FREE_TO_SAMPLE = ("per_proc_batch_size", "compile", "save_png", "config")
"""settings of sampling that change no number beyond rounding"""


FIELDS = ("train", "sample", "evaluate")
NOTHING: dict[str, list[str]] = {name: [] for name in FIELDS}
SOLVERS: dict[str, Callable] = {"ODE": ODE, "SDE": SDE}
PROGRAMS: dict[str, tuple[Any, str]] = {
    "--train": (TrainConfig, "train.py"),
    "--sample": (SOLVERS, "sample_ddp.py"),
    "--evaluate": (Score, "python -m evaluation"),
}


@dataclass(frozen=True)
class Added:
    """Flags that the user adds to those of every recipe."""

    train: str = ""
    """more flags for train.py: "--compile --num-workers 8" """
    sample: str = ""
    """more flags for sample_ddp.py: "--num-fid-samples 10000" """
    evaluate: str = ""
    """more flags for python -m evaluation: "--inception-weights FILE" """


@dataclass(frozen=True)
class RowSettings:
    """Settings of the three commands, without what differs between seeds and folders."""

    train_words: tuple[str, ...]
    train: TrainConfig
    sample_words: tuple[str, ...]
    sample: ODE | SDE
    evaluate_words: tuple[str, ...]
    evaluate: Score

    @property
    def steps(self) -> int:
        """Return the last step of training."""
        assert self.train.max_steps is not None  # every recipe gives it, as a test says
        return self.train.max_steps


@cache
def settle(
    row: PaperRow, variant: Variant, added: Added = Added(), miniature: bool = False
) -> RowSettings:
    """Return the settings of a row's variant; `ValueError` names the flag or the file's key."""
    own = {name: user_words(f"--{name}", getattr(added, name)) for name in FIELDS}
    file = ["--config", str(row.path)]
    train = inline_config([*variant.train, *file], TrainConfig, RUN_SECTION)
    small = miniature_words(parsed(f"{row.path} [train]", train)) if miniature else NOTHING
    train = inline_config(
        [*variant.train, *small["train"], *own["train"], *file], TrainConfig, RUN_SECTION
    )
    sample = [*variant.sample, *small["sample"], *own["sample"]]
    sample = inline_config([*sample, *file], SOLVERS, SAMPLE_SECTION)
    evaluate = own["evaluate"]
    if not miniature:  # whose scores have no options
        evaluate = inline_config([*evaluate, *file], Score, EVALUATE_SECTION)
    scored = ["X.npz", "--ref", "digits" if miniature else "REFERENCE", *evaluate]
    settings = RowSettings(
        train_words=tuple(train),
        train=parsed("--train", train),
        sample_words=tuple(sample),
        sample=parsed("--sample", expand_preset(sample)),
        evaluate_words=tuple(evaluate),
        evaluate=parsed("--evaluate", scored),
    )
    check_sample_config(settings.sample)
    check_metrics(settings.evaluate.metrics, pixels=miniature)
    return settings


def parsed(flag: str, words: list[str]):
    """Return the settings that a command's words make; equal words are parsed once."""
    return parse_once(flag, tuple(words))


@cache
def parse_once(flag: str, words: tuple[str, ...]):
    kind, program = PROGRAMS.get(flag, PROGRAMS["--train"])
    return parse_quietly(flag, kind, list(words), program)


def user_words(flag: str, text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}; check the quotes in {text!r}") from None
    refuse(flag, words, SET)
    return words


def changed_settings(row: PaperRow, variant: Variant, added: Added) -> list[str]:
    """Return the settings that change numbers and are not the recipe's, as "name value"."""
    own, now = settle(row, variant), settle(row, variant, added)
    lines = []
    for before, after, free in (
        (departures(own.train, free=False), departures(now.train, free=False), ()),
        (departures(own.sample), departures(now.sample), FREE_TO_SAMPLE),
    ):
        names = [name for name in before | after if name not in free]
        lines += [
            f"{name} {after.get(name, 'as by default')}"
            for name in names
            if before.get(name) != after.get(name)
        ]
    return lines
