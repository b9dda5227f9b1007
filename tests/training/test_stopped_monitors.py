"""A stop at a step after which monitors look: they look when the run goes on, and only once."""

import dataclasses
import json
import os
import signal

import pytest
from launching import TINY_DIGITS

from runtime.stopping import EXIT_PREEMPTED
from training.config import OptimConfig, SaveConfig
from training.loop import Training
from training.speed import MEASURED
from training.tracking import read_log

STEPS = 6
CONFIG = dataclasses.replace(
    TINY_DIGITS,
    loss_type="layer_sync",
    max_steps=STEPS,
    run_name="run",
    val_data_path="digits",
    val_every=2,
    val_samples=20,
    diagnose_every=2,
    sample_every=STEPS,
    optim=OptimConfig(lr=0.001, ema_decay=0.0),  # the held-out loss falls: the last is the best
    saving=SaveConfig(ckpt_every=100, keep_best="val_loss"),
)


def train(folder, stop_at=None, **changes) -> int:
    """Train, told to stop during a step; the exit code."""
    training = Training(dataclasses.replace(CONFIG, results_dir=str(folder), **changes))
    make_step = training.train_step

    def signalled(*args):
        if training.step + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_step(*args)

    training.train_step = signalled
    return training.run()


def logged(folder) -> list[dict]:
    rows = read_log(folder / "run" / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


def left(folder) -> tuple[str, set[str]]:
    """Return the best checkpoint's name and the pictures' names."""
    run = folder / "run"
    best = os.readlink(run / "checkpoints" / "best.pt")
    return best, {path.name for path in (run / "samples").iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(folder) == 0
    steps = [row["step"] for row in logged(folder)]
    assert [steps.count(step) for step in range(1, STEPS + 1)] == [1, 3, 1, 3, 1, 3]
    assert left(folder) == ("0000006.pt", {"0000006.png"})
    return folder


@pytest.mark.parametrize("step", [3, 4, STEPS])
def test_a_stopped_run_logs_what_an_undisturbed_one_does(undisturbed, tmp_path, step):
    assert train(tmp_path, stop_at=step) == EXIT_PREEMPTED
    assert logged(tmp_path)[-1] == next(row for row in logged(undisturbed) if row["step"] == step)
    assert train(tmp_path, resume="latest") == 0
    assert logged(tmp_path) == logged(undisturbed) and left(tmp_path) == left(undisturbed)
    assert train(tmp_path, resume="latest") == 0
    assert logged(tmp_path) == logged(undisturbed), "they looked twice"


def test_a_kill_between_two_monitors_leaves_the_second_to_the_resumed_run(undisturbed, tmp_path):
    assert train(tmp_path, stop_at=4) == EXIT_PREEMPTED
    rows = [row for row in logged(undisturbed) if row["step"] == 4]
    assert "val_loss" in rows[1] and "val_loss" not in rows[2]
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(rows[1]) + "\n")
    assert train(tmp_path, resume="latest") == 0
    assert logged(tmp_path) == logged(undisturbed) and left(tmp_path) == left(undisturbed)


def test_a_copy_of_a_run_does_not_look_at_the_step_it_begins_from(undisturbed, tmp_path):
    checkpoint = undisturbed / "run" / "checkpoints" / "0000004.pt"
    assert train(tmp_path, resume=str(checkpoint)) == 0
    assert logged(tmp_path) == [row for row in logged(undisturbed) if row["step"] > 4]
