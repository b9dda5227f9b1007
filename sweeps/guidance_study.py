"""A sweep of guidance: scales x intervals on one checkpoint, sampled and evaluated.

    FOLDER/sweep.json                the settings, the checkpoint, and every cell that was asked for
    FOLDER/cells/1.5-on-0.3-1/
        samples.png                  the first samples
        samples.metrics.json         their metrics
        cell.json, cell.log          which commands are done, and what they printed

Scale 1 is no guidance, whatever the interval: one cell. All cells sample the same noise and labels.
A later call may ask for other scales and intervals in the same folder: they come on top.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sampling.sample_config import ODE, SDE, check_sample_config
from sweeps.cells import Cell
from sweeps.command_words import check_reference, read_evaluate, read_sample
from sweeps.departures import evaluation_recipe, expected_of_samples, sampling_recipe
from sweeps.guidance_grid import GuidanceGrid, GuidancePoint, guidance_points
from sweeps.metric_names import known_metrics
from sweeps.study import sample_and_evaluate

REFUSED = {
    "--cfg-scale": "which the sweep sets from --scales",
    "--guidance-interval": "which the sweep sets from --intervals",
    "--ckpt": "and give it to the sweep, as --ckpt",
    "--out": "which is in each cell's folder",
    "--sample-dir": "which is each cell's folder",
}


@dataclass(frozen=True)
class GuidanceConfig:
    """The commands of every cell."""

    ckpt: str
    """checkpoint that is sampled, as sample_ddp.py takes it"""
    sample: str = "sample_ddp.py --preset paper-sde-em250 --num-fid-samples 10000"
    """sampling command, without checkpoint, output and guidance"""
    evaluate: str = "python -m evaluation --ref VIRTUAL_imagenet256_labeled.npz"
    """evaluation command, without samples and output"""
    metrics: tuple[str, str] | None = None
    """the picture's vertical and horizontal axis; fid inception_score unless given, and in pixel
    space pixel_frechet classifier_score"""
    folder: str = "results/guidance"
    """everything is written in here"""
    keep_samples: bool = False
    """keep the samples' .npz, which is otherwise removed when it is evaluated"""


class GuidanceStudy:
    """Scales x intervals on one checkpoint, each sampled and evaluated: a `Study`.

    Args:
        network: the result of `describe_checkpoint`; read from the checkpoint unless given.

    Raises `ValueError` for bad settings.
    """

    title: ClassVar = "guidance sweep"
    flags: ClassVar = {"ckpt": "--ckpt", "sample": "--sample", "evaluate": "--evaluate"}

    def __init__(self, c: GuidanceConfig, network: dict | None = None):
        self.config, self.folder = c, Path(c.folder)
        self.sample, self.sampling = read_sample(c.sample, REFUSED)
        self.evaluate, self.evaluation = read_evaluate(c.evaluate)
        self.metrics = c.metrics or self.usual_metrics()
        for metric in self.metrics:
            known = known_metrics(self.evaluation)
            if metric not in known:
                raise ValueError(f"--metrics {metric}: --evaluate gives {', '.join(known)}")
        self.network = network or describe_checkpoint(c.ckpt, self.sampling)

    def usual_metrics(self) -> tuple[str, str]:
        pixels = "classifier_score" in known_metrics(self.evaluation)
        return ("pixel_frechet", "classifier_score") if pixels else ("fid", "inception_score")

    def points(self, grid: GuidanceGrid) -> list[GuidancePoint]:
        """Return the grid's points; raise `ValueError` if the network cannot be guided."""
        points = guidance_points(grid)
        check_guidable(self, points)
        return points

    def check_inputs(self) -> None:
        check_reference(self.evaluation)

    def recipe(self) -> dict:
        """Return everything that determines the numbers of all cells, except guidance."""
        sample = sampling_recipe(self.sampling) | {"seed": self.sampling.global_seed}
        return {
            "ckpt": self.network,
            "sample": {
                k: v for k, v in sample.items() if k not in ("cfg_scale", "guidance_interval")
            },
            "evaluate": evaluation_recipe(self.evaluation),
        }

    def cell(self, point: GuidancePoint) -> Cell:
        """Return the cell of a point: its folder, settings and commands."""
        sampling = point.applied(self.sampling)
        check_sample_config(sampling)
        sample = [*self.sample, "--ckpt", self.config.ckpt, *point.flags(self.sampling)]
        same = {"seed": sampling.global_seed, "weights_sha256": self.network["weights_sha256"]}
        commands = sample_and_evaluate(
            sample=[*sample, "--out", "{samples}"],
            evaluate=self.evaluate,
            stem="samples",
            expects=expected_of_samples(sampling) | same,
            keep_samples=self.config.keep_samples,
        )
        settings = point.settings()
        folder = self.folder / "cells" / point.name
        return Cell(point.name, folder, settings, self.recipe() | settings, tuple(commands))

    def cost(self, cells: Sequence[Cell], parallel: int) -> list[str]:
        """Return nothing: each cell costs what one call of sample_ddp.py does."""
        return []

    def report(self, cells: Sequence[Cell]) -> list[str]:
        """Write guidance.md, .csv and .png (sweeps/guidance_report.py); return the first."""
        from sweeps.guidance_report import GuidanceFindings, markdown, write_guidance_report

        findings = GuidanceFindings(self, cells)
        path = write_guidance_report(findings)
        beside = "with guidance.csv and guidance.png beside it"
        return [*markdown(findings), f"written to {path}, {beside}"]

    def stored(self) -> dict:
        return {"guidance": dataclasses.asdict(self.config), "recipe": self.recipe()}

    @classmethod
    def load(
        cls, stored: dict, folder: Path, metrics: tuple[str, str] | None = None
    ) -> "GuidanceStudy":
        """Return the study in a sweep.json, without its checkpoint; `metrics` are the report's."""
        settings = stored["guidance"] | {"folder": str(folder)}
        settings["metrics"] = metrics or (settings["metrics"] and tuple(settings["metrics"]))
        network = stored["recipe"]["ckpt"]
        network["weights_sha256"]
        return cls(GuidanceConfig(**settings), network)

    @classmethod
    def load_points(cls, cells: Sequence[dict]) -> list[GuidancePoint]:
        """Return the points in the order of scale and interval."""
        return sorted(map(GuidancePoint.of, cells))


def describe_checkpoint(path: str, c: ODE | SDE) -> dict:
    """Return model, step and hash of the weights to sample, and whether they can be guided."""
    from sampling.checkpoint_settings import open_checkpoint

    trained, _ = open_checkpoint(dataclasses.replace(c, ckpt=path))
    return {
        "model": trained.arch["name"],
        "step": trained.step,
        "weights_sha256": trained.weights_sha256,
        "guidable": trained.arch.get("class_dropout_prob") != 0.0,
    }


def check_guidable(study: GuidanceStudy, points: list[GuidancePoint]) -> None:
    guided = [point.scale for point in points if point.scale > 1]
    if guided and not study.network["guidable"]:
        raise ValueError(
            f"--scales {guided[0]:g}: {study.config.ckpt} was trained without label dropout and "
            f"has no null label, so it cannot be guided"
        )
