"""A study of the paper's rows: their commands, their cells, and their folder.

    FOLDER/sweep.json                    reference, added flags, and every cell that was asked for
    FOLDER/runs/SiT-B-2-layer_sync-3f2a91-seed0/     a run of train.py, for all rows that sample it
    FOLDER/cells/b2-layersync-seed0/
        0400000.metrics.json             metrics of the samples of that step
        cell.json, cell.log              which commands are done, and what they printed

Rows whose trainings differ only in their length share a run: what is there is not trained again. A
later call may ask for other rows and seeds in the same folder; they come on top.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from sweeps.cells import Cell, Command, plain
from sweeps.command_words import check_reference
from sweeps.departures import (
    evaluation_recipe,
    expected_of_samples,
    sampling_recipe,
    training_recipe,
)
from sweeps.paper_miniature import few, few_steps
from sweeps.paper_points import PaperConfig, PaperGrid, PaperPoint
from sweeps.paper_rows import PaperRow, Variant, find_rows
from sweeps.paper_settings import Added, RowSettings, settle
from sweeps.study import sample_and_evaluate
from training.checks import check_train_config
from training.config import TrainConfig

ENCODER = "encoder.safetensors"  # of a miniature that needs one


class PaperStudy:
    """Rows of the paper's tables, each trained, sampled and evaluated: a `Study`.

    Raises `ValueError` for bad settings.
    """

    title: ClassVar = "reproduction of the paper's rows"
    flags: ClassVar = {"ref": "--ref", "miniature": "--miniature", "train": "--train"} | {
        name: f"--{name}" for name in ("sample", "evaluate")
    }

    def __init__(self, c: PaperConfig):
        self.config, self.folder = c, Path(c.folder)

    def row(self, point: PaperPoint) -> tuple[PaperRow, Variant, RowSettings]:
        """Return the row of a point, its variant and its settings."""
        (row,) = find_rows([point.row])
        for variant in row.variants:
            if variant.name == point.variant:
                return row, variant, settle(row, variant, self.config.added, self.config.miniature)
        raise ValueError(
            f"{self.folder}: it holds {point.name}, and {row.path} has no variant {point.variant}: "
            f"give another --folder"
        )

    def points(self, grid: PaperGrid) -> list[PaperPoint]:
        """Return a point for each row, variant and seed; `ValueError` for what cannot be run."""
        from sweeps.paper_inputs import check_origin, check_same_recipe, describe_weights

        rows, points = find_rows(grid.rows), []
        for row in rows:
            settings = settle(row, row.variants[0], self.config.added, self.config.miniature)
            check_origin(row, settings, grid, self.config)
            check_train_config(settings.train)
            weights = describe_weights(row, settings, grid.checkpoint) if grid.checkpoint else None
            data = None if weights else "digits" if self.config.miniature else grid.data_path
            origin = {"data": data, "checkpoint": grid.checkpoint, "weights": weights}
            variants = few(row.variants) if self.config.miniature else row.variants
            for variant in variants:
                points += [
                    PaperPoint(row.name, variant.name, seed, **origin) for seed in grid.seeds
                ]
        points = list(dict.fromkeys(points))
        for point in points:
            check_same_recipe(self.cell(point))
        return points

    def check_inputs(self) -> None:
        if self.config.miniature:
            if self.config.ref:
                raise ValueError(f"--ref {self.config.ref}: a miniature is scored in pixel space")
            return
        if not self.config.ref:
            raise ValueError(
                "--ref is missing: the file VIRTUAL_imagenet256_labeled.npz that ADM publishes "
                "(docs/reproduce.md says where)"
            )
        check_reference(self.config, "--ref")

    def recipe(self) -> dict:
        """Return everything that determines the numbers, apart from the rows' own files."""
        c = self.config
        ref = Path(c.ref).name if c.ref else None
        return {"ref": ref, "miniature": c.miniature, **dataclasses.asdict(c.added)}

    def cell(self, point: PaperPoint) -> Cell:
        """Return the cell of a point: its folder, settings and commands."""
        row, _, settings = self.row(point)
        training = dataclasses.replace(settings.train, data_path=point.data, dataset_name=None)
        identity = training_recipe(training) | {"global_seed": point.seed}
        identity.pop("ckpt")
        if constant(training):  # a run goes on: its length changes nothing that was before
            identity.pop("max_steps")
        commands: list[Command] = []
        for step in scored_steps(row, settings, self.config.miniature):
            checkpoint = point.checkpoint
            if not checkpoint:
                run = f"../../runs/{run_name(training, identity)}"
                name = f"{run}/checkpoints/{step:07d}.pt"
                features = self.config.repa_features
                commands += training_commands(settings, point, run, step, features, bool(commands))
                checkpoint = "{cell}/" + name
            commands += self.scoring(settings, point, step, checkpoint)
        own = {"train": identity, "steps": scored_steps(row, settings, self.config.miniature)}
        recipe = {
            **({"weights": point.weights} if point.weights else own),
            "sample": sampling_recipe(settings.sample),
            "evaluate": evaluation_recipe(settings.evaluate),
            "seed": point.seed,
        }
        folder = self.folder / "cells" / point.name
        return Cell(point.name, folder, point.settings(), recipe, tuple(commands))

    def scoring(
        self, settings: RowSettings, point: PaperPoint, step: int, checkpoint: str
    ) -> list[Command]:
        """Return the commands that sample and evaluate a checkpoint."""
        same = {"seed": point.seed} | (
            {"weights_sha256": point.weights} if point.weights else {"step": step}
        )
        stem = "samples" if point.weights else f"{step:07d}"
        ref = "digits" if self.config.miniature else str(self.config.ref)
        return sample_and_evaluate(
            sample=[
                *settings.sample_words, "--ckpt", checkpoint, "--global-seed", point.seed,
                "--out", "{samples}",
            ],
            evaluate=[*settings.evaluate_words, "--ref", ref],
            stem=stem,
            expects=expected_of_samples(settings.sample) | same,
            inputs=() if point.weights else (checkpoint.removeprefix("{cell}/"),),
            keep_samples=self.config.keep_samples,
            suffix="" if point.weights else f" {step}",
        )  # fmt: skip

    def cost(self, cells: Sequence[Cell], parallel: int) -> list[str]:
        """Return lines on the GPU hours of the cells that are left."""
        from sweeps.paper_cost import estimate_left

        return estimate_left(self, cells)

    def report(self, cells: Sequence[Cell]) -> list[str]:
        """Write report.md, report.csv and pictures (sweeps/paper_report.py); return the first."""
        from sweeps.paper_report import write_report

        return write_report(self, cells)

    def stored(self) -> dict:
        return {"paper": dataclasses.asdict(self.config)}

    @classmethod
    def load(cls, stored: dict, folder: Path) -> "PaperStudy":
        """Return the study in a sweep.json, now in `folder`."""
        settings = stored["paper"] | {"folder": str(folder)}
        return cls(PaperConfig(**(settings | {"added": Added(**settings["added"])})))

    @classmethod
    def load_points(cls, cells: Sequence[dict]) -> list[PaperPoint]:
        """Return the points in the order in which they were asked for."""
        return [PaperPoint(**settings) for settings in cells]


def constant(c: TrainConfig) -> bool:
    """Return whether what a step computes is the same however long the run is."""
    return c.optim.lr_schedule == "constant" and c.reg_schedule.reg_scheduler == "constant"


def scored_steps(row: PaperRow, settings: RowSettings, miniature: bool) -> list[int]:
    """Return the steps whose checkpoints are scored: of the curve, or the last one."""
    steps = [step for step in row.curve if step <= settings.steps or miniature]
    if miniature:
        steps = sorted({few_steps(step) for step in few(steps)})
    return steps or [settings.steps]


def run_name(c: TrainConfig, identity: dict) -> str:
    """Return the name of a run's folder, the same for all rows that share it."""
    digest = hashlib.sha256(json.dumps(plain(identity), sort_keys=True).encode()).hexdigest()
    return f"{c.model.replace('/', '-')}-{c.loss_type}-{digest[:6]}-seed{identity['global_seed']}"


def training_commands(
    settings: RowSettings,
    point: PaperPoint,
    run: str,
    step: int,
    features: str | None,
    goes_on: bool,
) -> list[Command]:
    """Return the commands that train until a step: one, after one that makes a miniature's encoder.

    Args:
        run: the run's folder, as a path from the cell's.
        features: of REPA's encoder, if they were cached.
        goes_on: whether an earlier command of the cell has trained up to here.
    """
    commands: list[Command] = []
    inputs: tuple[str, ...] = ()
    folder, name = run.rsplit("/", 1)
    repa = "repa" in settings.train.loss_type
    words = ["train.py", *without(settings.train_words, "--max-steps"), "--max-steps", step]
    if point.data != "digits":
        words += ["--data-path", point.data]
        words += ["--repa-features", features] if repa and features else []
    elif repa:
        inputs, path = (ENCODER,), "{cell}/" + ENCODER
        make = Command("encoder", ("-m", "sweeps.random_encoder", path), outputs=(ENCODER,))
        commands += [] if goes_on else [make]
        words += ["--repa-encoder-weights", path]
    words += ["--global-seed", point.seed, "--results-dir", "{cell}/" + folder, "--run-name", name]
    train = Command(
        f"train {step}",
        tuple(map(str, [*words, "--resume", "latest"])),
        inputs=inputs,
        outputs=(f"{run}/checkpoints/{step:07d}.pt",),
        shared=f"{folder}/{name}.lock",
        progress=(f"{run}/metrics.jsonl", step),
    )
    return [*commands, train]


def without(words: Sequence[str], flag: str) -> list[str]:
    """Return a command's words without a flag and its value."""
    places = [i for i, word in enumerate(words) if word == flag]
    return [word for i, word in enumerate(words) if i not in places and i - 1 not in places]
