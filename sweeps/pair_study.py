"""A study of layer pairs: its settings, its cells, and their folder.

    FOLDER/sweep.json             the commands, and every cell that was asked for
    FOLDER/cells/2-5-lambda0.3-seed0/
        train/                    the run of train.py
        0000700.metrics.json      metrics of the samples of that step
        cell.json, cell.log       which commands are done, and what they printed

A later call may ask for other pairs, weights and seeds in the same folder: they come on top. Its
commands must be the same.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from sweeps.cells import Cell, Command
from sweeps.command_words import (
    check_reference,
    evaluated_steps,
    read_base,
    read_evaluate,
    read_sample,
)
from sweeps.departures import (
    evaluation_recipe,
    expected_of_samples,
    sampling_recipe,
    training_recipe,
)
from sweeps.grid_values import exact
from sweeps.metric_names import check_metric
from sweeps.pair_grid import PairGrid, PairPoint, grid_points
from sweeps.study import sample_and_evaluate
from training.methods.layer_sync import layer_sync_settings


@dataclass(frozen=True)
class PairStudyConfig:
    """The commands of every cell."""

    base: str
    """training command that all cells share: "train.py --model SiT-B/2 --max-steps 50000 ..." """
    sample: str = "sample_ddp.py --preset paper-ode-heun250"
    """sampling command, without checkpoint, output and seed"""
    evaluate: str = "python -m evaluation --ref VIRTUAL_imagenet256_labeled.npz"
    """evaluation command, without samples and output"""
    metric: str | None = None
    """what the report compares; the first that the evaluation gives unless named"""
    checkpoints: Literal["last", "all"] = "last"
    """which checkpoints of a run are sampled and evaluated; all for the metric over steps"""
    folder: str = "results/sweep"
    """everything is written in here"""
    keep_samples: bool = False
    """keep the samples' .npz, which is otherwise removed when it is evaluated"""


class PairStudy:
    """Layer pairs, each trained, sampled and evaluated beside a vanilla run: a `Study`.

    Args:
        level: confidence level of the intervals over seeds in the report.

    Raises `ValueError` for bad settings.
    """

    title: ClassVar = "study of layer pairs"
    flags: ClassVar = {
        "train": "--base",
        "sample": "--sample",
        "evaluate": "--evaluate",
        "steps": "--checkpoints",
    }

    def __init__(self, c: PairStudyConfig, level: float = 0.95):
        self.config, self.folder, self.level = c, Path(c.folder), level
        self.base, self.training = read_base(c.base)
        self.sample, self.sampling = read_sample(c.sample)
        self.evaluate, self.evaluation = read_evaluate(c.evaluate)
        self.metric = check_metric(c.metric, self.evaluation)
        self.steps = evaluated_steps(self.training, c.checkpoints)
        try:
            _, self.usual_weight = layer_sync_settings(self.training)
        except ValueError as error:
            raise ValueError(f"--base: {error}") from None

    @cached_property
    def depth(self) -> int:
        from models import find_model

        return find_model(self.training.model).keywords["depth"]

    def points(self, grid: PairGrid) -> list[PairPoint]:
        """Return all points of a grid, see `grid_points`."""
        return grid_points(grid, self.depth, self.usual_weight)

    def check_inputs(self) -> None:
        check_reference(self.evaluation)

    def recipe(self) -> dict:
        """Return everything that determines the numbers of all cells."""
        return {
            "train": training_recipe(self.training),
            "sample": sampling_recipe(self.sampling),
            "evaluate": evaluation_recipe(self.evaluation),
            "steps": self.steps,
        }

    def cell(self, point: PairPoint) -> Cell:
        """Return the cell of a point: its folder, settings and commands."""
        train = [*self.base, "--epochs", self.training.max_steps, *loss_flags(point)]
        train += ["--global-seed", point.seed, "--results-dir", "{cell}", "--run-name", "train"]
        if self.training.wandb:
            train += ["--wandb-run-name", f"{self.folder.name}-{point.name}"]
        checkpoints = tuple(f"train/checkpoints/{step:07d}.pt" for step in self.steps)
        commands = [
            Command(
                "train",
                as_words("train.py", *train, "--resume", "latest"),
                outputs=checkpoints,
                progress=("train/metrics.jsonl", self.steps[-1]),
            )
        ]
        for step, checkpoint in zip(self.steps, checkpoints, strict=True):
            sample = [*self.sample, "--ckpt", "{cell}/" + checkpoint, "--out", "{samples}"]
            commands += sample_and_evaluate(
                sample=[*sample, "--global-seed", point.seed],
                evaluate=self.evaluate,
                stem=f"{step:07d}",
                expects=expected_of_samples(self.sampling) | {"step": step, "seed": point.seed},
                inputs=(checkpoint,),
                keep_samples=self.config.keep_samples,
                suffix=f" {step}",
            )
        settings = point.settings()
        recipe = self.recipe() | settings
        folder = self.folder / "cells" / point.name
        return Cell(point.name, folder, settings, recipe, tuple(commands))

    def cost(self, cells: Sequence[Cell], parallel: int) -> list[str]:
        """Return lines on the FLOPs, network passes and hours of the cells that are left."""
        from sweeps.pair_cost import estimate

        return estimate(self, cells, parallel)

    def report(self, cells: Sequence[Cell]) -> list[str]:
        """Write FOLDER/report (sweeps/pair_tables.py); return its table."""
        from sweeps.pair_findings import Findings
        from sweeps.pair_tables import overview_lines, write_report

        findings = Findings(self, cells, self.metric, self.level)
        path = write_report(findings)
        return [*overview_lines(findings), f"written to {path} and beside it"]

    def stored(self) -> dict:
        return {"study": dataclasses.asdict(self.config)}

    @classmethod
    def load(
        cls, stored: dict, folder: Path, metric: str | None = None, level: float = 0.95
    ) -> "PairStudy":
        """Return the study in a sweep.json; `metric` and `level` are the report's."""
        config = PairStudyConfig(**(stored["study"] | {"folder": str(folder)}))
        return cls(dataclasses.replace(config, metric=metric or config.metric), level)

    @classmethod
    def load_points(cls, cells: Sequence[dict]) -> list[PairPoint]:
        """Return the points in the order in which they were asked for."""
        return [PairPoint.of(settings) for settings in cells]


def loss_flags(point: PairPoint) -> list:
    if point.pair is None:
        return ["--loss-type", "vanilla"]
    student, teacher = point.pair
    pair = ["--encoder-depth", student, "--gt-encoder-depth", teacher]
    return ["--loss-type", "layer_sync", *pair, "--reg-weight", exact(point.weight)]


def as_words(*words) -> tuple[str, ...]:
    return tuple(map(str, words))
