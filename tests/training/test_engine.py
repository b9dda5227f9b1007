"""The training engine: ways of computing a step that must not change it, and when it stops."""

import dataclasses
import os
import shutil
import signal
from threading import Event

import numpy as np
import pytest
import torch
from launching import TINY_DIGITS, check, logged_rows, needs_shards

import train
from models.checkpoint_file import read_checkpoint
from runtime.stopping import EXIT_PREEMPTED
from training import loop
from training.checkpoint import prune_checkpoints, save_checkpoint
from training.checkpoint_writer import Cancelled
from training.config import EngineConfig, OptimConfig, SaveConfig
from training.optimizer import learning_rate
from training.parallel import forget_accelerates_variables
from training.tracking import read_log


def config(tmp_path, **changes):
    changes = dict(run_name="run", results_dir=str(tmp_path)) | changes
    return dataclasses.replace(TINY_DIGITS, **changes)


def run(tmp_path, **changes):
    """Train in this process; returns (exit code, the logged values of each step)."""
    training = train.Training(config(tmp_path, **changes))
    code = training.run()
    return code, logged_rows(training.folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"))[1]


@pytest.mark.parametrize(
    "engine",
    [
        EngineConfig(accumulation_steps=4),
        EngineConfig(checkpoint_activations=1),
        EngineConfig(checkpoint_activations=3),
        EngineConfig(accumulation_steps=2, checkpoint_activations=2),
    ],
)
def test_memory_savers_change_rounding_only(tmp_path, plain, engine):
    np.testing.assert_allclose(run(tmp_path, engine=engine)[1], plain, rtol=1e-4)


def test_compiled_blocks_give_the_same_losses(tmp_path, plain, monkeypatch):
    """With the graph captured but not lowered, so that no C++ compiler is needed."""
    monkeypatch.setattr("models.compiling.BACKEND", "aot_eager")
    torch._dynamo.reset()
    losses = run(tmp_path, engine=EngineConfig(compile=True))[1]
    np.testing.assert_allclose(losses, plain, rtol=1e-4)


def flags(tmp_path, name, *more):
    return [
        "--model", "SiT-Ti/2", "--dataset-name", "digits", "--image-size", 8, "--num-classes", 10,
        "--vae", "none", "--global-batch-size", 8, "--max-steps", 4, "--log-every", 1,
        "--num-workers", 0, "--sample-every", 0, "--lr", 1e-2, "--results-dir", tmp_path,
        "--ckpt-every", 2, "--run-name", name, *more,
    ]  # fmt: skip


@pytest.mark.slow
@needs_shards
def test_sharded_run_equals_plain_one_and_each_resumes_the_other(tmp_path, plain):
    more = "--fsdp", "--max-grad-norm", 1e9, "--probe-every", 4, "--probe-samples", 40
    more += "--sample-every", 4
    check("train.py", *flags(tmp_path, "fsdp", *more), processes=2)
    np.testing.assert_allclose(logged_rows(tmp_path / "fsdp"), plain, rtol=2e-4)
    assert (tmp_path / "fsdp" / "samples" / "0000004.png").exists()

    sharded = tmp_path / "fsdp" / "checkpoints" / "0000002.pt"
    optim = OptimConfig(lr=1e-2, max_grad_norm=1e9)
    probing = dict(probe_every=4, probe_samples=40)
    alone = run(tmp_path / "alone", resume=str(sharded), optim=optim, **probing)[1]
    np.testing.assert_allclose(alone, plain[2:], rtol=2e-4)
    probes = [
        {key: value for key, value in row.items() if key.startswith("probe_")}
        for folder in (tmp_path / "fsdp", tmp_path / "alone" / "run")
        for row in read_log(folder / "metrics.jsonl")
        if "probe_rank_1" in row
    ]
    assert len(probes) == 2 and probes[0] == pytest.approx(probes[1], rel=1e-3)

    # the other way: written by one process, continued by two that shard
    for path in (tmp_path / "fsdp" / "checkpoints").glob("*.pt"):
        path.unlink()
    run(tmp_path / "one", max_steps=2, optim=optim)
    shutil.copy(tmp_path / "one" / "run" / "checkpoints" / "0000002.pt", sharded)
    again = flags(tmp_path, "fsdp", "--fsdp", "--max-grad-norm", 1e9, "--resume", "latest")
    check("train.py", *again, processes=2)
    np.testing.assert_allclose(logged_rows(tmp_path / "fsdp")[2:], plain[2:], rtol=2e-4)


def test_learning_rate_schedules():
    constant, warm = OptimConfig(lr=0.5), OptimConfig(lr=0.5, warmup_steps=4)
    assert [learning_rate(constant, s, 10) for s in (0, 9)] == [0.5, 0.5]
    assert [learning_rate(warm, s, 10) for s in range(6)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    cosine = OptimConfig(lr=1.0, lr_schedule="cosine")
    assert learning_rate(cosine, 0, 10) == 1 and learning_rate(cosine, 10, 10) == 0
    assert learning_rate(cosine, 5, 10) == pytest.approx(0.5)


def test_cosine_cannot_be_resumed_to_another_end(tmp_path):
    cosine = OptimConfig(lr=1e-3, lr_schedule="cosine")
    run(tmp_path, optim=cosine, max_steps=2)
    with pytest.raises(ValueError, match="last step of the cosine: 2 there, 3 here"):
        train.Training(config(tmp_path, optim=cosine, max_steps=3, resume="latest"))


def test_clipping_bounds_the_update(tmp_path):
    """Adam hides the gradient's scale, so look at the first moment: 0.1 times the gradient."""
    training = train.Training(config(tmp_path, optim=OptimConfig(max_grad_norm=1e-3), max_steps=1))
    training.run()
    moments = [state["exp_avg"] for state in training.update.optimizer.state.values()]
    norm = torch.linalg.vector_norm(torch.cat([m.flatten() for m in moments]))
    assert norm.item() == pytest.approx(1e-4, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, capfd):
    training = train.Training(
        config(tmp_path, saving=SaveConfig(ckpt_every=2), max_steps=8, log_every=4)
    )
    step = training.train_step.forward_backward

    def poisoned(*args):
        values = step(*args)
        return values | {"loss": values["loss"] * float("nan")} if training.step == 2 else values

    training.train_step.forward_backward = poisoned
    assert training.run() == loop.EXIT_NOT_FINITE
    assert "the loss of step 3 is not finite" in capfd.readouterr().err
    checkpoints = training.folder / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["0000002.pt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_writes_a_checkpoint_and_ends_with_its_own_exit_code(tmp_path, number):
    training = train.Training(config(tmp_path, max_steps=50))
    step = training.train_step

    def signalled(*args):
        if training.step == 2:
            os.kill(os.getpid(), number)
        return step(*args)

    training.train_step = signalled
    assert training.run() == EXIT_PREEMPTED == 75
    assert read_checkpoint(training.folder / "checkpoints" / "0000003.pt")["step"] == 3
    assert train.Training(config(tmp_path, max_steps=50, resume="latest")).step == 3


def test_full_disk_is_refused_before_writing_and_keeps_the_old_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "1.pt", {"step": 1})
    with pytest.raises(OSError, match=r"takes 0\.04 GB.*--min-free-disk 1e\+09 GB must remain"):
        save_checkpoint(tmp_path / "2.pt", {"x": [torch.zeros(10_000_000)]}, min_free_disk=1e9)
    assert [path.name for path in tmp_path.iterdir()] == ["1.pt"]


def test_retention_keeps_the_newest_and_the_permanent(tmp_path):
    for step in range(1, 13):
        (tmp_path / f"{step:07d}.pt").touch()
    (tmp_path / "mine.pt").touch()

    def kept(whole: range, **keep) -> list[int]:
        names = {f"{step:07d}.pt" for step in whole}
        prune_checkpoints(tmp_path, 10, names, **keep)
        return sorted(int(path.stem) for path in tmp_path.glob("0*.pt"))

    every = list(range(1, 13))
    assert kept(range(1, 13), keep_last=None, keep_every=None) == every
    assert kept(range(10, 13), keep_last=2, keep_every=None) == every  # only one up to step 10
    assert kept(range(5, 8), keep_last=2, keep_every=4) == [4, *range(6, 13)]  # 8, 9 may be bad
    assert kept(range(5, 11), keep_last=2, keep_every=4) == [4, 8, 9, 10, 11, 12]
    assert (tmp_path / "mine.pt").exists()


def test_a_resumed_run_never_prunes_what_it_can_read_in_favour_of_what_it_cannot(tmp_path, capsys):
    saving = dict(ckpt_every=10, keep_last=2, min_free_disk=0.0)
    assert train.Training(config(tmp_path, max_steps=30, saving=SaveConfig(**saving))).run() == 0
    folder = next(tmp_path.rglob("0000030.pt")).parent
    cut = folder / "0000030.pt"
    cut.write_bytes(cut.read_bytes()[:1000])
    saving = SaveConfig(ckpt_every=3, keep_last=1, min_free_disk=0.0)
    again = config(tmp_path, max_steps=29, saving=saving, resume="latest")
    assert train.Training(again).run() == 0
    assert "passed over: checkpoint" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["0000029.pt", "0000030.pt"]
    assert read_checkpoint(folder / "0000029.pt")["step"] == 29
    assert cut.stat().st_size == 1000  # of a later step: somebody may want to look at it


def test_training_goes_on_during_a_slow_write_and_the_file_is_the_state_of_its_step(
    tmp_path, monkeypatch
):
    """Between the call and the end of the write the weights change; the file must not."""
    release, steps_meanwhile = Event(), []

    def slow(path, state, *rest):
        assert release.wait(60)
        save_checkpoint(path, state, *rest)

    monkeypatch.setattr("training.run_checkpoints.save_checkpoint", slow)
    saving = SaveConfig(ckpt_every=3, min_free_disk=0.0)
    training = train.Training(config(tmp_path, max_steps=6, saving=saving))
    make_step, expected = training.train_step, {}

    def step(*args):
        if training.step == 3:  # its checkpoint has been handed over
            expected.update({k: v.clone() for k, v in training.network.state_dict().items()})
        if 3 <= training.step < 6:
            steps_meanwhile.append(release.is_set())
        if training.step == 5:
            release.set()
        return make_step(*args)

    training.train_step = step
    assert training.run() == 0
    assert steps_meanwhile == [False, False, False]
    written = read_checkpoint(next(tmp_path.rglob("0000003.pt")))
    assert all(torch.equal(written["model"][key], value) for key, value in expected.items())
    last = read_checkpoint(next(tmp_path.rglob("0000006.pt")))["model"]
    assert not all(torch.equal(last[key], value) for key, value in expected.items())


def test_an_older_write_never_delays_the_last_one(tmp_path, monkeypatch):
    """A disk that has hung since step 2; told to stop, the run gives that checkpoint up."""
    given_up = []

    def hanging(path, state, min_free_disk, cancelled):
        if state["step"] == 2:
            given_up.append(cancelled.wait(60))
            raise Cancelled
        save_checkpoint(path, state, min_free_disk, cancelled)

    monkeypatch.setattr("training.run_checkpoints.save_checkpoint", hanging)
    saving = SaveConfig(ckpt_every=2, min_free_disk=0.0)
    training = train.Training(config(tmp_path, max_steps=50, saving=saving))
    make_step = training.train_step

    def step(images, labels):
        if training.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_step(images, labels)

    training.train_step = step
    assert training.run() == EXIT_PREEMPTED and given_up == [True]
    assert [path.name for path in tmp_path.rglob("*.pt")] == ["0000004.pt"]


def test_a_write_that_fails_ends_the_run(tmp_path, monkeypatch):
    def full(path, state, *rest):
        raise OSError(f"checkpoint {path}: cannot be written (disk full)")

    monkeypatch.setattr("training.run_checkpoints.save_checkpoint", full)
    saving = SaveConfig(ckpt_every=2, min_free_disk=0.0)
    training = train.Training(config(tmp_path, max_steps=50, saving=saving))
    with pytest.raises(OSError, match="disk full"):
        training.run()
    assert training.step < 50


def test_held_out_losses_by_time(tmp_path):
    """An untrained SiT outputs 0, so its loss is the mean square of x_1 - x_0 in every bin."""
    folder = tmp_path / "images"
    for i in range(20):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), 255 * (i % 2), np.uint8)  # x_1 = -1 or 1: mean square 1
        from PIL import Image

        Image.fromarray(pixels).save(folder / str(i % 2) / f"{i}.png")
    training = train.Training(
        config(
            tmp_path,
            dataset_name=None,
            num_classes=2,
            data_path=str(folder),
            val_data_path=str(folder),
        )
    )
    held_out = training.monitors["held_out_loss"]
    losses = held_out.losses()
    bins = [losses.pop(f"val_loss_t0.{i}") for i in range(10)]
    assert set(losses) == {"val_loss"}
    assert losses["val_loss"] == pytest.approx(np.mean(bins)) == pytest.approx(2, rel=0.1)
    assert held_out.losses()["val_loss"] == losses["val_loss"]
    held_out.images = held_out.images[:3]  # were of t below 0.3 alone, and the other bins NaN
    assert list(held_out.losses()) == [
        "val_loss",
        "val_loss_t0.1",
        "val_loss_t0.5",
        "val_loss_t0.8",
    ]


def test_settings_of_accelerate_launch_are_not_used_and_named(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")
    forget_accelerates_variables()
    assert "ACCELERATE_DYNAMO_BACKEND" not in os.environ
    assert "warning: ACCELERATE_DYNAMO_BACKEND: not used, the settings" in capsys.readouterr().err
    forget_accelerates_variables()
    assert not capsys.readouterr().err
