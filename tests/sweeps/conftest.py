"""Cells of toy programs, and studies whose results are made up."""

import json

import pytest

from sweeps.cells import Cell, Command, fingerprint, write_record
from sweeps.pair_grid import PairPoint
from sweeps.pair_study import PairStudy, PairStudyConfig
from sweeps.sweep_folder import join_sweep

PROGRAM = """
import json, os, signal, sys, time
kind, out, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
if kind == "bad":
    sys.exit("toy.py: error: no good")
stop = []
if kind == "saves":  # as train.py: on SIGTERM it saves, ends with 75, and goes on from there
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
done = int(open(out + ".saved").read()) if os.path.exists(out + ".saved") else 0
while done < seconds * 20:
    time.sleep(0.05)
    done += 1
    print("at", done, flush=True)
    if stop:
        open(out + ".saved", "w").write(str(done))
        sys.exit(75)
open(out, "w").write(json.dumps({"metrics": {"m": done}, "recipe": {"step": 3}}))
"""


@pytest.fixture
def toy(tmp_path):
    """toy(name, kind, seconds) -> a cell of one program that writes metrics after `seconds`."""
    (tmp_path / "toy.py").write_text(PROGRAM)

    def make(name: str, kind: str = "good", seconds: float = 0.05) -> Cell:
        words = (str(tmp_path / "toy.py"), kind, "{cell}/m.json", str(seconds))
        command = Command("work", words, outputs=("m.json",), result=True, expects={"step": 3})
        settings = {"name": name}
        return Cell(name, tmp_path / "cells" / name, settings, settings, (command,))

    return make


BASE = (
    "train.py --model SiT-Ti/2 --dataset-name digits --image-size 8 --num-classes 10 --vae none "
    "--global-batch-size 8 --max-steps 4 --ckpt-every 2 --log-every 2 --sample-every 0 "
    "--num-workers 0"
)
SAMPLE = "sample_ddp.py ODE --sampling-method euler --num-sampling-steps 2 --num-fid-samples 32"
EVALUATE = "python -m evaluation --ref digits"


@pytest.fixture
def study_config(tmp_path):
    """study_config(**changes) -> settings of a study of the digits."""

    def make(**changes) -> PairStudyConfig:
        given = dict(base=BASE, sample=SAMPLE, evaluate=EVALUATE, folder=str(tmp_path / "sweep"))
        return PairStudyConfig(**(given | changes))

    return make


def finish(cell: Cell, metric) -> None:
    """Write what a cell would leave, `metric(step)` in its metrics files."""
    cell.folder.mkdir(parents=True)
    record = {"done": {}, "failure": None}
    for command in cell.commands:
        if command.result:
            path = cell.folder / command.outputs[0]
            values = {"pixel_frechet": metric(command.expects["step"]), "pixel_recall": 0.5}
            path.write_text(json.dumps({"metrics": values, "recipe": command.expects}))
            outputs = {path.name: fingerprint(path)}
            record["done"][command.name] = {"words": [], "seconds": 10.0, "outputs": outputs}
    write_record(cell, record)


@pytest.fixture
def made_up(study_config):
    """made_up(values, steps) -> a study and its cells.

    `values` is {(pair or None, lambda, seed): metric at the last step}, of any value but None; a
    cell of None stays unfinished.
    """

    def make(values: dict, **changes) -> tuple[PairStudy, list[Cell]]:
        study = PairStudy(study_config(**changes))
        points = [PairPoint(*key) for key in values]
        join_sweep(study, points)
        cells = [study.cell(point) for point in points]
        for cell, value in zip(cells, values.values(), strict=True):
            if value is not None:
                finish(cell, lambda step, value=value: value * study.steps[-1] / step)
        return study, cells

    return make
