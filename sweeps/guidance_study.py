"""A sweep of guidance: scales x intervals on one checkpoint, sampled and evaluated.

    FOLDER/sweep.json                the settings, the checkpoint, and every cell that was asked for
    FOLDER/cells/1.5-on-0.3-1/
        samples.png                  the first samples
        samples.metrics.json         what evaluation says of them
        cell.json, cell.log          what is done, and what the commands printed

Scale 1 is no guidance, whatever the interval: one cell. All cells sample the same noise and labels.
A later call may ask for other scales and intervals in the same folder: they come on top.
"""

import dataclasses
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from sampling.sample_config import ODE, SDE, check_sample_config
from sweeps.cells import Cell, Command, plain
from sweeps.commands import (
    evaluation_recipe,
    expected_of_samples,
    known_metrics,
    read_evaluate,
    read_sample,
    sampling_recipe,
)
from sweeps.guidance_grid import GuidancePoint
from sweeps.pair_study import DEFAULT, check_free

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
    """Commands, read and checked, and the cells of any points. `ValueError` for bad settings.

    Args:
        network: of the checkpoint, by `describe_checkpoint`; read from it unless given.
    """

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

    def recipe(self) -> dict:
        """What determines the numbers of all cells, but for guidance."""
        sample = sampling_recipe(self.sampling) | {"seed": self.sampling.global_seed}
        return {
            "ckpt": self.network,
            "sample": {
                k: v for k, v in sample.items() if k not in ("cfg_scale", "guidance_interval")
            },
            "evaluate": evaluation_recipe(self.evaluation),
        }

    def cell(self, point: GuidancePoint) -> Cell:
        """The folder, settings and commands of a point."""
        samples, metrics = "samples.npz", "samples.metrics.json"
        sampling = point.applied(self.sampling)
        check_sample_config(sampling)
        sample = ["sample_ddp.py", *self.sample, "--ckpt", self.config.ckpt]
        sample += [*point.flags(self.sampling), "--out", "{cell}/" + samples]
        evaluate = ["-m", "evaluation", "{cell}/" + samples, *self.evaluate]
        commands = (
            Command("sample", tuple(sample), outputs=(samples,)),
            Command(
                "evaluate",
                (*evaluate, "--out", "{cell}/" + metrics),
                inputs=(samples,),
                outputs=(metrics,),
                result=True,
                expects=expected_of_samples(sampling)
                | {"seed": sampling.global_seed, "weights_sha256": self.network["weights_sha256"]},
                discards=() if self.config.keep_samples else (samples,),
            ),
        )
        settings = point.settings()
        folder = self.folder / "cells" / point.name
        return Cell(point.name, folder, settings, self.recipe() | settings, commands)


def describe_checkpoint(path: str, c: ODE | SDE) -> dict:
    """The weights that will be sampled: model, step, hash, and whether they can be guided."""
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


# --- the folder


def read_guidance_manifest(folder: Path) -> dict:
    """sweep.json of a folder; `ValueError` if it is not there or of another program."""
    path = folder / "sweep.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no sweep is there (no sweep.json)")
    try:
        manifest = json.loads(path.read_text())
        GuidanceConfig(**manifest["guidance"])
        [GuidancePoint.of(settings) for settings in manifest["cells"]]
        manifest["recipe"]["ckpt"]["weights_sha256"]
        return manifest
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not the sweep.json of a guidance sweep") from None


def check_same_sweep(study: GuidanceStudy) -> list[dict]:
    """The cells that the folder already knows of; `ValueError` if it holds another sweep."""
    folder = study.folder
    if not (folder / "sweep.json").exists():
        check_free(folder)
        return []
    manifest = read_guidance_manifest(folder)
    for part, here in plain(study.recipe()).items():
        there = manifest["recipe"].get(part, {})
        for key in here | there:
            if here.get(key) != there.get(key):
                raise ValueError(
                    f"--folder {folder} holds a sweep of other settings (--{part}: {key} "
                    f"{there.get(key, DEFAULT)} there, {here.get(key, DEFAULT)} here): give "
                    f"another --folder"
                )
    return manifest["cells"]


def join_sweep(study: GuidanceStudy, points: list[GuidancePoint]) -> None:
    """Write sweep.json, or add the points to it; two sweeps that start at once take turns."""
    check_same_sweep(study)
    study.folder.mkdir(parents=True, exist_ok=True)
    with open(study.folder / "sweep.lock", "a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        known = check_same_sweep(study)
        cells = known + [p.settings() for p in points if p.settings() not in known]
        manifest = {
            "guidance": dataclasses.asdict(study.config),
            "recipe": study.recipe(),
            "cells": cells,
        }
        temporary = study.folder / f"sweep.json.tmp{os.getpid()}"
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")
        os.replace(temporary, study.folder / "sweep.json")


def load_sweep(folder: Path, metrics: tuple[str, str] | None = None):
    """(study, cells) of a folder, without its checkpoint; `ValueError` if there is none."""
    manifest = read_guidance_manifest(folder)
    stored = manifest["guidance"] | {"folder": str(folder)}
    stored["metrics"] = metrics or (stored["metrics"] and tuple(stored["metrics"]))
    study = GuidanceStudy(GuidanceConfig(**stored), manifest["recipe"]["ckpt"])
    points = sorted(map(GuidancePoint.of, manifest["cells"]))
    return study, [study.cell(point) for point in points]
