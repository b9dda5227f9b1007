"""A study of layer pairs: its settings, its cells, and the folder that they are in.

    FOLDER/sweep.json             the commands, and every cell that was asked for
    FOLDER/cells/2-5-lambda0.3-seed0/
        train/                    the run of train.py
        0000700.metrics.json      what evaluation says of the samples of that step
        cell.json, cell.log       what is done, and what the commands printed

A later call may ask for other pairs, weights and seeds in the same folder: they come on top. Its
commands must be the same.
"""

import dataclasses
import fcntl
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from sweeps.cells import Cell, Command
from sweeps.commands import (
    check_metric,
    evaluated_steps,
    evaluation_recipe,
    expected_of_samples,
    read_base,
    read_evaluate,
    read_sample,
    sampling_recipe,
    training_recipe,
)
from sweeps.pair_grid import Grid, Point, grid_points
from training.methods.layer_sync import layer_sync_settings

DEFAULT = "the default"  # of a setting that a recipe leaves out


@dataclass(frozen=True)
class StudyConfig:
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


class Study:
    """Commands, read and checked, and the cells of any points. `ValueError` for bad settings."""

    def __init__(self, c: StudyConfig):
        self.config, self.folder = c, Path(c.folder)
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

    def points(self, grid: Grid) -> list[Point]:
        return grid_points(grid, self.depth, self.usual_weight)

    def recipe(self) -> dict:
        """What determines the numbers of all cells."""
        return {
            "train": training_recipe(self.training),
            "sample": sampling_recipe(self.sampling),
            "evaluate": evaluation_recipe(self.evaluation),
            "steps": self.steps,
        }

    def cell(self, point: Point) -> Cell:
        """The folder, settings and commands of a point."""
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
                progress=("train/metrics.jsonl", self.training.max_steps),
            )
        ]
        for step, checkpoint in zip(self.steps, checkpoints, strict=True):
            commands += self.sample_and_evaluate(point, step, checkpoint)
        settings = point.settings()
        recipe = self.recipe() | settings
        folder = self.folder / "cells" / point.name
        return Cell(point.name, folder, settings, recipe, tuple(commands))

    def sample_and_evaluate(self, point: Point, step: int, checkpoint: str) -> list[Command]:
        samples, metrics = f"{step:07d}.npz", f"{step:07d}.metrics.json"
        sample = [*self.sample, "--ckpt", "{cell}/" + checkpoint, "--out", "{cell}/" + samples]
        evaluate = ["{cell}/" + samples, *self.evaluate, "--out", "{cell}/" + metrics]
        return [
            Command(
                f"sample {step}",
                as_words("sample_ddp.py", *sample, "--global-seed", point.seed),
                inputs=(checkpoint,),
                outputs=(samples,),
            ),
            Command(
                f"evaluate {step}",
                as_words("-m", "evaluation", *evaluate),
                inputs=(samples,),
                outputs=(metrics,),
                result=True,
                expects=expected_of_samples(self.sampling) | {"step": step, "seed": point.seed},
                discards=() if self.config.keep_samples else (samples,),
            ),
        ]


def loss_flags(point: Point) -> list:
    if point.pair is None:
        return ["--loss-type", "vanilla"]
    student, teacher = point.pair
    pair = ["--encoder-depth", student, "--gt-encoder-depth", teacher]
    return ["--loss-type", "layer_sync", *pair, "--reg-weight", f"{point.weight:g}"]


def as_words(*words) -> tuple[str, ...]:
    return tuple(map(str, words))


# --- the folder


def read_manifest(folder: Path) -> dict:
    """sweep.json of a folder; `ValueError` if it is not there or of another program."""
    path = folder / "sweep.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no sweep is there (no sweep.json)")
    try:
        manifest = json.loads(path.read_text())
        StudyConfig(**manifest["study"])
        [Point.of(settings) for settings in manifest["cells"]]
        return manifest
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not the sweep.json of a study of layer pairs") from None


def join_sweep(study: Study, points: list[Point]) -> None:
    """Write sweep.json, or add the points to it; `ValueError` if it is of other commands.

    Two sweeps that start at once take turns.
    """
    check_same_study(study)
    study.folder.mkdir(parents=True, exist_ok=True)
    with open(study.folder / "sweep.lock", "a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        known = check_same_study(study)
        cells = known + [p.settings() for p in points if p not in map(Point.of, known)]
        manifest = {"study": dataclasses.asdict(study.config), "cells": cells}
        temporary = study.folder / f"sweep.json.tmp{os.getpid()}"
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")
        os.replace(temporary, study.folder / "sweep.json")


def check_same_study(study: Study) -> list[dict]:
    """Settings of the cells that the folder knows of; `ValueError` if its commands are others."""
    folder = study.folder
    if not (folder / "sweep.json").exists():
        check_free(folder)
        return []
    manifest = read_manifest(folder)
    there, here = (s.recipe() for s in (Study(StudyConfig(**manifest["study"])), study))
    found = [
        f"{flag}: {key} {there[part].get(key, DEFAULT)} there, {here[part].get(key, DEFAULT)} here"
        for part, flag in (("train", "--base"), ("sample", "--sample"), ("evaluate", "--evaluate"))
        for key in here[part] | there[part]
        if here[part].get(key) != there[part].get(key)
    ]
    if there["steps"] != here["steps"] and not found:
        found = [f"--checkpoints: steps {there['steps']} there, {here['steps']} here"]
    if found:
        raise ValueError(
            f"--folder {folder} holds a sweep of other settings ({'; '.join(found)}): give another "
            f"--folder"
        )
    return manifest["cells"]


def check_free(folder: Path) -> None:
    """`ValueError` if there is something that no sweep made."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--folder {folder} is a file: give another one")
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if any(not name.startswith(("sweep.", "cells", "slurm")) for name in found):
        raise ValueError(f"--folder {folder} holds something else: give another one")


def load_study(folder: Path) -> tuple[Study, list[Cell]]:
    """The study that a folder holds, and all of its cells."""
    manifest = read_manifest(folder)
    config = dataclasses.replace(StudyConfig(**manifest["study"]), folder=str(folder))
    study = Study(config)
    return study, [study.cell(Point.of(settings)) for settings in manifest["cells"]]
