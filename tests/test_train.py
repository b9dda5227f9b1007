"""train.py as real processes: exact resume, any number of processes, and what it writes."""

import random

import numpy as np
import pytest
import torch
from launching import TINY, check, kill_when, lines
from PIL import Image

from models.checkpoint_file import read_checkpoint
from training.checkpoint import latest_checkpoint
from training.tracking import read_log

STEPS = 20
COMPARED = ("loss", "velocity_loss", "sync_loss", "similarity_2_5", "grad_norm", "lr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """26 noise images of 3 classes: three steps of 8 an epoch, and two images left over."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for i in range(26):
        path = root / f"class{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (11, 9, 3), dtype=np.uint8)).save(path)
    return root


def flags(folder, results, name):
    return [
        *TINY, "--data-path", folder, "--num-classes", 3, "--global-batch-size", 8, "--lr", 1e-3,
        "--max-steps", STEPS, "--log-every", 1, "--ckpt-every", 3, "--num-workers", 1,
        "--sample-every", 0, "--results-dir", results, "--run-name", name, "--ema-decay", 0.9,
    ]  # fmt: skip


def logged(run) -> list[list[float]]:
    rows = read_log(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return [[row[name] for name in COMPARED] for row in rows]


def same_state(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b


def train_with_kills(flags, run, processes):
    """Start, kill at two random moments, and let the third start finish."""
    log = run / "metrics.jsonl"
    for low, high in ((2, 8), (10, 16)):
        goal = random.randint(low, high)
        kill_when(lambda g=goal: lines(log) >= g, "train.py", *flags, processes=processes)
    check("train.py", *flags, processes=processes)


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    """The runs to compare with, on 1 and 2 processes."""
    results = tmp_path_factory.mktemp("results")
    for processes in (1, 2):
        check("train.py", *flags(folder, results, f"on{processes}"), processes=processes)
    return results


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_is_bit_identical(folder, uninterrupted, tmp_path, processes):
    again = [*flags(folder, tmp_path, "run"), "--resume", "latest"]
    train_with_kills(again, tmp_path / "run", processes)
    whole = uninterrupted / f"on{processes}"
    assert logged(tmp_path / "run") == logged(whole)
    states = [
        read_checkpoint(latest_checkpoint(run / "checkpoints")) for run in (whole, tmp_path / "run")
    ]
    assert states[0]["step"] == STEPS
    for key in ("model", "ema", "opt", "step", "arch", "meter"):
        assert same_state(states[0][key], states[1][key]), key


def test_number_of_processes_changes_rounding_only(uninterrupted):
    one, two = logged(uninterrupted / "on1"), logged(uninterrupted / "on2")
    assert one != two or torch.get_num_threads() == 1
    np.testing.assert_allclose(one, two, rtol=2e-4)


def test_resumes_on_another_number_of_processes(folder, uninterrupted, tmp_path):
    checkpoint = uninterrupted / "on2" / "checkpoints" / "0000012.pt"
    check("train.py", *flags(folder, tmp_path, "run"), "--resume", checkpoint)
    rows = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(13, STEPS + 1))
    expected = logged(uninterrupted / "on2")[12:]
    np.testing.assert_allclose([[row[n] for n in COMPARED] for row in rows], expected, rtol=2e-4)


def test_says_what_it_trains(folder, tmp_path):
    said = check("train.py", *flags(folder, tmp_path, "run"), "--max-steps", 1, real=True)
    assert "blocks[1] -> blocks[4]" in said and "lambda 0.3" in said
    assert "26 images" in said
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
