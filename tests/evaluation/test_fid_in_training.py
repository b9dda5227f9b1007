"""Metrics while training are those of sampling the checkpoint and evaluating the file."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from launching import TINY, TINY_DIGITS, check
from PIL import Image

import sample_ddp
import train
from evaluation import Evaluator
from evaluation.samples import read_samples
from evaluation.scorers import load_scorer
from sampling.sample_config import ODE
from training.checks import check_train_config
from training.config import EngineConfig, EvalConfig, SaveConfig
from training.tracking import read_log

FLAGS = [
    *TINY, "--num-classes", 10, "--dataset-name", "digits", "--global-batch-size", 8,
    "--max-steps", 3, "--num-workers", 0, "--sample-every", 0, "--lr", 1e-2, "--eval-every", 2,
    "--eval-samples", 45, "--eval-ref", "digits", "--eval-steps", 4, "--eval-batch-size", 8,
    "--ckpt-every", 2, "--run-name", "run",
]  # fmt: skip


def sample_checkpoint(folder, count, out, **arithmetic):
    """The checkpoint of step 2, sampled by the other command."""
    checkpoint = str(folder / "checkpoints" / "0000002.pt")
    solver = dict(sampling_method="heun2", num_sampling_steps=4) | arithmetic
    sampling = sample_ddp.Sampling(ODE(ckpt=checkpoint, num_fid_samples=count, out=out, **solver))
    sampling.parts.prepare()
    sampling.run(0, 1)
    return out


def evaluated(folder, dtype="float32", compiled=False) -> dict:
    """The scores of step 2, which say how the network was evaluated."""
    rows = read_log(folder / "metrics.jsonl")
    with_fid = [row for row in rows if any(key.startswith("eval_") for key in row)]
    assert [row.pop("step") for row in with_fid] == [2]
    assert [row.pop("eval_dtype") for row in with_fid] == [dtype]
    assert [row.pop("eval_compiled") for row in with_fid] == [compiled]
    return with_fid[0]


def test_pixel_scores_on_two_processes(tmp_path):
    check("train.py", *FLAGS, "--results-dir", tmp_path, processes=2)
    samples = sample_checkpoint(tmp_path / "run", 45, str(tmp_path / "samples.npz"))
    images, labels, _ = read_samples(samples)
    scores = load_scorer("digits", (8, 8, 1), "samples").evaluate([images], labels)
    expected = {f"eval_{name}": value for name, value in scores.metrics.items()}
    assert evaluated(tmp_path / "run") == pytest.approx(expected, rel=1e-6)


def test_fid_and_its_company(tmp_path, tiny_networks, images):
    """The tiny network in Inception's place takes images of 12 x 12."""
    folder = tmp_path / "data" / "class"
    folder.mkdir(parents=True)
    for i, image in enumerate(images(20, 0)):
        Image.fromarray(image).save(folder / f"{i}.png")
    evaluation = EvalConfig(
        eval_every=2, eval_samples=30, eval_ref=str(folder.parent), eval_steps=4
    )
    config = dataclasses.replace(
        TINY_DIGITS, dataset_name=None, data_path=str(folder.parent), image_size=12, max_steps=3,
        num_classes=1, evaluation=evaluation, saving=SaveConfig(ckpt_every=2), run_name="run",
        results_dir=str(tmp_path),
    )  # fmt: skip
    assert train.Training(config).run() == 0
    made, labels, _ = read_samples(
        sample_checkpoint(tmp_path / "run", 30, str(tmp_path / "samples.npz"))
    )
    scores = Evaluator(str(folder.parent)).evaluate([np.asarray(made)], labels)
    assert set(scores.metrics) >= {"fid", "sfid", "inception_score", "precision", "recall"}
    expected = {f"eval_{name}": value for name, value in scores.metrics.items()}
    assert evaluated(tmp_path / "run") == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_in_bf16_and_compiled_they_are_those_of_sampling_in_bf16_and_compiled(
    tmp_path, monkeypatch
):
    """With graphs captured but not lowered, so that no C++ compiler is needed."""
    monkeypatch.setattr("models.compiling.BACKEND", "aot_eager")
    torch._dynamo.reset()
    AcceleratorState._reset_state()  # which keeps a process's first precision
    evaluation = EvalConfig(eval_every=2, eval_samples=40, eval_ref="digits", eval_steps=4)
    config = dataclasses.replace(
        TINY_DIGITS, evaluation=evaluation, saving=SaveConfig(ckpt_every=2), run_name="run",
        max_steps=3, engine=EngineConfig(precision="bf16", compile=True),
        results_dir=str(tmp_path),
    )  # fmt: skip
    try:
        assert train.Training(config).run() == 0
    finally:
        AcceleratorState._reset_state()
    out = str(tmp_path / "samples.npz")
    images, labels, recipe = read_samples(
        sample_checkpoint(tmp_path / "run", 40, out, bf16=True, compile=True)
    )
    scores = load_scorer("digits", (8, 8, 1), "samples").evaluate([images], labels)
    expected = {f"eval_{name}": value for name, value in scores.metrics.items()}
    made = evaluated(tmp_path / "run", recipe["dtype"], recipe["compiled"])
    assert made == pytest.approx(expected, rel=1e-6)
    assert (recipe["dtype"], recipe["compiled"]) == ("bfloat16 (autocast)", True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(eval_every=5), "--eval-every needs --eval-ref FILE"),
        (dict(eval_ref="ref.npz"), "--eval-ref has no effect without --eval-every N"),
        (dict(eval_every=5, eval_ref="r.npz", eval_samples=2), "--eval-samples 2: it must be at"),
        (dict(eval_every=5, eval_ref="r.npz", eval_steps=1), "--eval-steps 1: it must be at least"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_train_config(dataclasses.replace(TINY_DIGITS, evaluation=EvalConfig(**settings)))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("missing.npz", "missing.npz"),
        (
            "digits",
            r"this run has images of \(16, 16, 3\), and the reference digits of \(8, 8, 1\)",
        ),
    ],
)
def test_a_reference_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path, reference, message
):
    size = 16 if reference == "digits" else 8
    folder = tmp_path / "data" / "0"
    folder.mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (16, 16)).save(folder / f"{i}.png")
    config = dataclasses.replace(
        TINY_DIGITS, dataset_name=None, data_path=str(folder.parent), image_size=size,
        num_classes=1, evaluation=EvalConfig(eval_every=1, eval_ref=reference),
        results_dir=str(tmp_path / "out"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        train.Training(config)
    assert not (tmp_path / "out").exists()


def test_every_process_needs_a_sample(tmp_path, monkeypatch):
    scorer = SimpleNamespace(processes=SimpleNamespace(count=8))
    monkeypatch.setattr("evaluation.scorers.load_scorer", lambda *given: scorer)
    evaluation = EvalConfig(eval_every=2, eval_samples=4, eval_ref="digits")
    config = dataclasses.replace(
        TINY_DIGITS, evaluation=evaluation, results_dir=str(tmp_path / "out")
    )
    with pytest.raises(ValueError, match="--eval-samples 4: fewer than the 8 processes; give 8"):
        train.Training(config)
    assert not (tmp_path / "out").exists()
