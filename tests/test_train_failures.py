"""Troubles of a long run: bad data, a full disk, killed processes. Nothing may be lost."""

import dataclasses
import os
import resource
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from forking import ENVIRONMENT, family, forked
from launching import ROOT, TINY, TINY_DIGITS, command, lines, logged_rows, wait_until
from launching import run as run_command
from PIL import Image

import train
from models.checkpoint_file import read_checkpoint
from training.checkpoint import latest_checkpoint
from training.config import OptimConfig


@pytest.fixture
def images(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "images" / f"class{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def flags(images, results, *more) -> list:
    return [
        *TINY, "--data-path", images, "--num-classes", 3, "--global-batch-size", 8, "--lr", 1e-3,
        "--max-steps", 8, "--log-every", 1, "--ckpt-every", 2, "--num-workers", 1,
        "--sample-every", 0, "--results-dir", results, "--run-name", "run", "--resume", "latest",
        *more,
    ]  # fmt: skip


def uninterrupted(images, steps: int) -> list[list[float]]:
    """Return what the same run logs in this process; others agree with it up to rounding."""
    alone = dict(data_path=str(images), dataset_name=None, num_classes=3, max_steps=steps)
    results = dict(results_dir=str(images.parent / "whole"), run_name="run")
    optim = OptimConfig(lr=1e-3)
    training = train.Training(dataclasses.replace(TINY_DIGITS, **alone, **results, optim=optim))
    training.run()
    return logged_rows(training.folder)


def error_lines(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if "train.py: error: " in line]


def test_an_unreadable_image_ends_the_run_with_its_name_and_the_run_continues(images, tmp_path):
    bad = images / "class1" / "13.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:60])
    done = run_command("train.py", *flags(images, tmp_path))
    (line,) = error_lines(done)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{bad}: not a readable image (" in line and "--resume latest continues" in line
    bad.write_bytes(good)
    assert run_command("train.py", *flags(images, tmp_path)).returncode == 0
    np.testing.assert_allclose(logged_rows(tmp_path / "run"), uninterrupted(images, 8), rtol=2e-4)


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(images, tmp_path):
    """No file may grow beyond the size of a checkpoint of step 4: the next is never written."""
    first = run_command("train.py", *flags(images, tmp_path, "--max-steps", 4))
    assert first.returncode == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "0000004.pt"
    size = checkpoint.stat().st_size // 2
    done = subprocess.run(
        command("train.py", *flags(images, tmp_path)),
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    (line,) = error_lines(done)
    assert done.returncode == 1 and "0000006.pt: cannot be written ([Errno 27]" in line
    names = sorted(path.name for path in checkpoint.parent.iterdir())
    assert names == ["0000002.pt", "0000004.pt"]
    assert read_checkpoint(latest_checkpoint(checkpoint.parent))["step"] == 4


def test_a_killed_loading_process_ends_the_run_with_one_line(images, tmp_path):
    process = subprocess.Popen(
        command("train.py", *flags(images, tmp_path, "--max-steps", 100_000)),
        env=ENVIRONMENT,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: lines(tmp_path / "run" / "metrics.jsonl") > 4, process)
    (loader,) = forked(process.pid).children()
    loader.send_signal(signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "Traceback" not in said
    assert "a data loading process was killed from outside" in said
    assert latest_checkpoint(tmp_path / "run" / "checkpoints")


def two_nodes(images, results, port: int, *more) -> list[subprocess.Popen]:
    """Two launchers of one process each that meet on the loopback, as on two machines."""
    started = []
    for node in range(2):
        launcher = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
            f"--node_rank={node}", "--master_addr=127.0.0.1", f"--master_port={port}",
        ]  # fmt: skip
        train = [str(ROOT / "train.py"), *map(str, flags(images, results, *more))]
        with open(results / f"node{node}.log", "a") as log:
            started.append(
                subprocess.Popen(
                    [*launcher, *train], env=ENVIRONMENT, cwd=ROOT, stdout=log, stderr=log
                )
            )
    return started


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_two_nodes_train_lose_one_and_resume(images, tmp_path):
    """The second node dies with all its processes; both are started again and finish."""
    nodes = two_nodes(images, tmp_path, free_port(), "--max-steps", 100_000)
    wait_until(lambda: lines(tmp_path / "run" / "metrics.jsonl") > 4, nodes[0])
    for member in family(nodes[1].pid):
        member.send_signal(signal.SIGKILL)
    os.kill(nodes[0].pid, signal.SIGTERM)  # as a scheduler does with what is left of the job
    for node in nodes:
        node.wait(timeout=90)
    step = read_checkpoint(latest_checkpoint(tmp_path / "run" / "checkpoints"))["step"]
    assert step >= 4
    end = step + 4
    for node in two_nodes(images, tmp_path, free_port(), "--max-steps", end):
        assert node.wait(timeout=180) == 0, (tmp_path / "node0.log").read_text()[-3000:]
    np.testing.assert_allclose(logged_rows(tmp_path / "run"), uninterrupted(images, end), rtol=2e-4)
