"""Files that earlier code wrote are still read, and go on as they did then.

tests/golden/made_before/ holds them; make.sh there says how they were made.
"""

import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
from launching import check

MADE = Path(__file__).parent / "golden" / "made_before"
LOSSES = ("loss", "velocity_loss", "sync_loss", "similarity_2_5", "reg_weight", "grad_norm", "lr")
DIGITS = (
    "--model SiT-Ti/2 --dataset-name digits --image-size 8 --num-classes 10 --vae none "
    "--global-batch-size 8 --log-every 1 --sample-every 0 --num-workers 0"
)
RUN = (
    f"{DIGITS} --lr 1e-2 --ema-decay 0.5 --loss-type layer_sync --encoder-depth 2 "
    "--gt-encoder-depth 5 --reg-weight 0.3 --reg-similarity-threshold 0 --max-steps 4"
)
SAMPLE = (
    "ODE --sampling-method heun2 --num-sampling-steps 5 --num-fid-samples 32 "
    "--per-proc-batch-size 16"
)
FROM_LATENTS = (
    "--model SiT-Ti/2 --image-size 16 --num-classes 2 --global-batch-size 4 --log-every 1 "
    "--sample-every 0 --num-workers 0 --max-steps 2 --loss-type vanilla"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The checkpoint of step 2 of a run with LayerSync, which its threshold has switched off."""
    path = tmp_path_factory.mktemp("made_before") / "0000002.pt"
    path.write_bytes(lzma.decompress((MADE / "checkpoint.pt.xz").read_bytes()))
    return path


def check_rows(then: Path, now: Path) -> None:
    """The last lines of a metrics.jsonl say what a file of lines made before says."""
    rows = [json.loads(line) for line in then.read_text().splitlines()]
    actual = [json.loads(line) for line in now.read_text().splitlines()][-len(rows) :]
    for old, new in zip(rows, actual, strict=True):
        assert new["step"] == old["step"]
        expected = {name: old[name] for name in LOSSES if name in old}
        assert {name: new[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_a_run_is_resumed(checkpoint, tmp_path):
    where = ["--resume", checkpoint, "--results-dir", tmp_path, "--run-name", "run"]
    assert "steps 2 to 4" in check("train.py", *RUN.split(), *where)
    check_rows(MADE / "resumed.jsonl", tmp_path / "run" / "metrics.jsonl")


def test_a_checkpoint_is_sampled(checkpoint, tmp_path):
    check("sample_ddp.py", *SAMPLE.split(), "--ckpt", checkpoint, "--out", tmp_path / "now.npz")
    with np.load(MADE / "samples.npz") as then, np.load(tmp_path / "now.npz") as now:
        assert np.array_equal(now["labels"], then["labels"])
        difference = now["arr_0"].astype(int) - then["arr_0"]
        old, new = (json.loads(str(archive["recipe"])) for archive in (then, now))
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01  # rounding
    for name in old.keys() - {"versions"}:
        assert new[name] == old[name], name


def test_samples_are_evaluated(tmp_path):
    out = tmp_path / "now.json"
    check("-m", "evaluation", MADE / "samples.npz", "--ref", "digits", "--out", out)
    then = json.loads((MADE / "samples.metrics.json").read_text())
    now = json.loads(out.read_text())
    assert now["metrics"] == pytest.approx(then["metrics"], rel=1e-4)
    assert now["recipe"] == then["recipe"]


def test_results_are_tabulated():
    printed = check("-m", "evaluation", "table", MADE / "results.csv").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed]
    row = dict(zip(cells[0], cells[2], strict=True))
    expected = {"samples": "images", "images": "8", "FID": "0.000", "Inception Score": "1.00"}
    assert {name: row[name] for name in expected} == expected


def test_a_run_starts_from_cached_latents(tmp_path):
    where = ["--data-path", MADE / "latents", "--vae", MADE / "vae", "--results-dir", tmp_path]
    check("train.py", *FROM_LATENTS.split(), *where, "--run-name", "run")
    check_rows(MADE / "from_latents.jsonl", tmp_path / "run" / "metrics.jsonl")


def test_a_finished_sweep_has_nothing_to_do(tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(MADE / "sweep", folder)
    shutil.rmtree(folder / "report")
    commands = {
        "--base": f"train.py {DIGITS} --max-steps 4",
        "--sample": "sample_ddp.py ODE --sampling-method euler --num-sampling-steps 3 "
        "--num-fid-samples 96",
        "--evaluate": "python -m evaluation --ref digits",
    }
    grid = ["--pairs", "[(2,5)]", "--seeds", "0", "--lambdas", "0.3", "--folder", folder]
    words = [word for pair in commands.items() for word in pair]
    printed = check("scripts/sweep_layer_pairs.py", "run", *words, *grid)
    assert "2 cells: 2 finished" in printed and "running" not in printed
    for table in ("summary.csv", "cells.csv"):
        then, now = (f / "report" / table for f in (MADE / "sweep", folder))
        assert now.read_text() == then.read_text()
