"""--keep-best: the step with the lowest logged number has its checkpoint, whatever happens."""

import dataclasses
import math
import os
from types import SimpleNamespace

import pytest
import torch
from launching import TINY_DIGITS, check, kill_when

from models.checkpoint_file import read_checkpoint
from training.best_checkpoint import BestCheckpoint
from training.checkpoint import best_file, latest_checkpoint
from training.checks import check_train_config
from training.config import EvalConfig, OptimConfig, SaveConfig
from training.loop import Training
from training.tracking import read_log

STEPS = 12
CONFIG = dataclasses.replace(
    TINY_DIGITS,
    max_steps=STEPS,
    val_data_path="digits",
    val_every=1,
    val_samples=20,
    optim=OptimConfig(lr=0.05, ema_decay=0.0),  # so high that the loss rises and falls
    saving=SaveConfig(ckpt_every=5, keep_last=1, keep_best="val_loss"),
)


def best_logged(run) -> int:
    rows = [row for row in read_log(run / "metrics.jsonl") if "val_loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return min(rows, key=lambda row: row["val_loss"])["step"]


def names(run) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert Training(dataclasses.replace(CONFIG, results_dir=str(folder), run_name="a")).run() == 0
    return folder / "a"


def test_the_best_step_is_kept_beside_the_newest(whole_run):
    step = best_logged(whole_run)
    assert 1 < step < STEPS, "this run does not show anything"
    checkpoints = whole_run / "checkpoints"
    assert names(whole_run) == {"best.pt", f"{step:07d}.pt", f"{STEPS:07d}.pt"}
    assert read_checkpoint(checkpoints / "best.pt")["step"] == step
    assert os.readlink(checkpoints / "best.pt") == f"{step:07d}.pt"
    assert latest_checkpoint(checkpoints).name == f"{STEPS:07d}.pt"


@pytest.mark.parametrize("stop", [5, 9])
def test_a_run_that_goes_on_remembers_it(whole_run, tmp_path, stop):
    run = dataclasses.replace(CONFIG, results_dir=str(tmp_path), run_name="a")
    Training(dataclasses.replace(run, max_steps=stop)).run()
    assert best_file(tmp_path / "a" / "checkpoints").stem <= f"{stop:07d}"
    Training(dataclasses.replace(run, resume="latest")).run()
    assert best_logged(tmp_path / "a") == best_logged(whole_run)
    assert names(tmp_path / "a") == names(whole_run)
    mine, theirs = (
        read_checkpoint(folder / "checkpoints" / "best.pt")
        for folder in (tmp_path / "a", whole_run)
    )
    assert all(torch.equal(mine["ema"][key], theirs["ema"][key]) for key in theirs["ema"])


def test_going_on_from_the_best_is_going_on_from_its_step(whole_run, tmp_path):
    best = whole_run / "checkpoints" / "best.pt"
    with pytest.raises(ValueError, match=f"later checkpoints than {os.readlink(best)}"):
        Training(
            dataclasses.replace(
                CONFIG, results_dir=str(whole_run.parent), run_name="a", resume=str(best)
            )
        )
    new = dataclasses.replace(CONFIG, results_dir=str(tmp_path), run_name="b", resume=str(best))
    training = Training(dataclasses.replace(new, max_steps=STEPS + 1))
    assert training.step == int(best_file(best.parent).stem)
    checkpoints = training.checkpoints
    assert checkpoints.whole == {os.readlink(best)} and checkpoints.best.value == math.inf


def moments(best, values):
    """The steps, from 1, that count as the best of these values."""
    log = SimpleNamespace(seen={})
    steps = []
    for step, value in enumerate(values, 1):
        log.seen["val_loss"] = value
        steps += [step] * best.improved(step, log)
    return steps


def test_only_a_lower_number_is_better(tmp_path):
    assert moments(
        BestCheckpoint(CONFIG, tmp_path, 0), [3.0, 3.0, math.nan, 4.0, 2.0, 2.5, 1.0]
    ) == [
        1,
        5,
        7,
    ]
    every_third = BestCheckpoint(dataclasses.replace(CONFIG, val_every=3), tmp_path, 0)
    assert moments(every_third, [1.0, 2.0, 3.0, 0.0, 0.0, 2.0]) == [3, 6]
    off = dataclasses.replace(CONFIG, saving=SaveConfig())
    assert moments(BestCheckpoint(off, tmp_path, 0), [3.0, 2.0]) == []


def test_a_kill_before_the_link_is_replaced_leaves_the_old_one(tmp_path, monkeypatch):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for step in (1, 2):
        (checkpoints / f"{step:07d}.pt").write_text(f"whole {step}")
    best = BestCheckpoint(CONFIG, tmp_path, 0)
    best.link(checkpoints / "0000001.pt")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            best.link(checkpoints / "0000002.pt")
    assert best.link_path.read_text() == "whole 1"
    best.link(checkpoints / "0000002.pt")
    assert best.link_path.read_text() == "whole 2" and best_file(checkpoints).stem == "0000002"


def test_a_file_of_that_name_is_not_replaced(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").write_text("my own")
    with pytest.raises(ValueError, match=r"best.pt is a file, and a link of that name would"):
        BestCheckpoint(CONFIG, tmp_path, 0)


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        (dict(val_data_path=None), "--keep-best val_loss needs --val-data-path"),
        (dict(saving=SaveConfig(keep_best="eval_fid")), "--keep-best eval_fid needs --eval-every"),
        (
            dict(
                saving=SaveConfig(keep_best="eval_fid"),
                evaluation=EvalConfig(eval_every=5, eval_ref="digits"),
            ),
            "--eval-ref digits gives eval_pixel_frechet",
        ),
    ],
)
def test_a_number_that_the_run_does_not_log_is_refused(settings, refusal):
    with pytest.raises(ValueError, match=refusal):
        check_train_config(dataclasses.replace(CONFIG, **settings))


def test_killed_at_a_best_step_and_sampled(tmp_path):
    """As a user would: killed as soon as there is a best one, resumed, and sampled from."""
    best = tmp_path / "a" / "checkpoints" / "best.pt"
    flags = [
        "--model", "SiT-Ti/2", "--dataset-name", "digits", "--image-size", 8, "--num-classes", 10,
        "--vae", "none", "--global-batch-size", 8, "--lr", 0.05, "--ema-decay", 0, "--log-every", 1,
        "--max-steps", STEPS, "--num-workers", 0, "--sample-every", 0, "--eval-every", 2,
        "--eval-ref", "digits", "--eval-samples", 16, "--eval-steps", 3,
        "--keep-best", "eval_pixel_frechet", "--ckpt-every", 5, "--keep-last", 1,
        "--results-dir", tmp_path, "--run-name", "a", "--resume", "latest",
    ]  # fmt: skip
    kill_when(best.exists, "train.py", *flags)
    assert read_checkpoint(best)["step"] >= 2
    check("train.py", *flags)
    rows = read_log(tmp_path / "a" / "metrics.jsonl")
    lowest = min(row.get("eval_pixel_frechet", math.inf) for row in rows)
    (step,) = (row["step"] for row in rows if row.get("eval_pixel_frechet") == lowest)
    assert best.readlink().name == f"{step:07d}.pt"
    check(
        "sample_ddp.py", "ODE", "--ckpt", best, "--num-fid-samples", 4,
        "--sampling-method", "euler", "--num-sampling-steps", 3, "--sample-dir", tmp_path,
    )  # fmt: skip
    (samples,) = tmp_path.glob("*.npz")
    assert f"-{step:07d}-" in samples.name
