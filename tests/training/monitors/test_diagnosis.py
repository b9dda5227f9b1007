"""--diagnose-every: against autograd over the whole loss, and that it leaves a run as it is."""

import dataclasses
import math

import pytest
import torch
from launching import TINY_DIGITS, check, logged_rows, needs_shards

import train
from training.checks import check_train_config
from training.tracking import read_log


def config(tmp_path, **changes):
    common = dict(results_dir=str(tmp_path), encoder_depth=2, gt_encoder_depth=5)
    return dataclasses.replace(TINY_DIGITS, **(common | changes))


def diagnoses(folder):
    return [row for row in read_log(folder / "metrics.jsonl") if "grad_angle_2_5" in row]


def test_the_norm_of_the_sum_follows_from_norms_and_angle(tmp_path):
    """The law of cosines, with autograd's gradient of velocity loss + L_sync at the student."""
    training = train.Training(config(tmp_path, diagnose_every=100))
    training.run()  # a few steps, so that blocks are no longer the identity
    images, labels = zip(*(training.source[i] for i in range(8)), strict=True)
    images, labels = torch.stack(list(images)), torch.tensor(labels)
    batch = training.batches.again(images, labels, training.step, training.shard)
    values = training.monitors["diagnosis"].values(batch)

    tokens = []
    handle = training.network.blocks[1].register_forward_hook(lambda *call: tokens.append(call[2]))
    autocast = training.parallel.autocast()
    sync = training.objective.regularizers[0].sync
    with sync.capture(), autocast:
        velocity = training.transport.training_losses(
            training.network, batch.x_1, batch.conditions, t=batch.t, x0=batch.x_0
        )["loss"].mean()
    handle.remove()
    total = torch.autograd.grad(velocity + sync.loss(), tokens[0])[0].norm().item()

    a, b, angle = (values[f"grad_{name}_2_5"] for name in ("velocity", "sync", "angle"))
    cosine = math.cos(math.radians(angle))
    assert total == pytest.approx(math.sqrt(a * a + b * b + 2 * a * b * cosine), rel=1e-4)
    assert a > 0 and b > 0 and 0 < angle < 180
    by_time = [value for name, value in values.items() if name.startswith("similarity_2_5_t")]
    assert min(by_time) <= sync.similarity()[2, 5] <= max(by_time)
    assert 1 <= values["rank_2"] <= 127 and 1 <= values["rank_5"] <= 127


def test_a_run_is_not_changed_by_it(tmp_path):
    plain = train.Training(config(tmp_path / "plain"))
    plain.run()
    looked = train.Training(config(tmp_path / "looked", diagnose_every=2))
    looked.run()
    assert logged_rows(looked.folder) == logged_rows(plain.folder)
    assert [row["step"] for row in diagnoses(looked.folder)] == [2, 4]


@pytest.mark.slow
@needs_shards
def test_sharded_processes_find_what_one_finds(tmp_path):
    alone = train.Training(config(tmp_path / "one", diagnose_every=4))
    alone.run()
    flags = [
        "--model", "SiT-Ti/2", "--image-size", 8, "--vae", "none", "--dataset-name", "digits",
        "--num-classes", 10, "--global-batch-size", 8, "--max-steps", 4, "--log-every", 1,
        "--num-workers", 0, "--sample-every", 0, "--lr", 1e-2, "--encoder-depth", 2,
        "--gt-encoder-depth", 5, "--diagnose-every", 4, "--results-dir", tmp_path,
        "--run-name", "two", "--fsdp",
    ]  # fmt: skip
    check("train.py", *flags, processes=2)
    (one,), (two,) = diagnoses(alone.folder), diagnoses(tmp_path / "two")
    for name, value in one.items():
        if not name.startswith("rank"):
            assert two[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name


def test_it_needs_a_pair(tmp_path):
    blind = config(tmp_path, diagnose_every=2, loss_type="vanilla", encoder_depth=None)
    blind = dataclasses.replace(blind, gt_encoder_depth=None)
    with pytest.raises(ValueError, match="--diagnose-every 2 needs a pair to look at"):
        check_train_config(blind)
