"""Runs of two processes, sharded or not, and bf16 in the step, against one process in float32."""

import dataclasses
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from launching import SHARDS, TINY_DIGITS, check_runs, logged_rows

import train
from models.checkpoint_file import read_checkpoint
from training.checks import check_train_config
from training.config import EngineConfig, OptimConfig, SaveConfig
from training.parallel import start_accelerator
from training.settings_record import differences
from training.tracking import read_log

CLIPPED = OptimConfig(lr=1e-2, max_grad_norm=1e9)  # clipping that changes nothing
OPTIMIZER = EngineConfig(shard="optimizer")
BF16 = EngineConfig(precision="bf16")


def engine(base: EngineConfig = OPTIMIZER, **changes):
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def run(folder):
    """Train in this process, each name once; returns the folder of the run."""

    def run_once(name, **changes):
        if not (folder / name).exists():
            AcceleratorState._reset_state()  # it keeps a process's first precision
            assert train.Training(config(folder, name, **changes)).run() == 0
            AcceleratorState._reset_state()
        return folder / name

    return run_once


def config(folder, name, **changes):
    saving = SaveConfig(ckpt_every=2, min_free_disk=0.0)
    settings = dict(run_name=name, results_dir=str(folder), saving=saving, optim=CLIPPED)
    return dataclasses.replace(TINY_DIGITS, **(settings | changes))


def checkpoint(run_folder, step=4):
    return run_folder / "checkpoints" / f"{step:07d}.pt"


@pytest.fixture(scope="module")
def two(folder, run):
    """Runs of two processes, made in one launch; returns a function from name to folder."""
    if not SHARDS:
        pytest.skip("this version of torch shards on GPUs only")
    start = str(checkpoint(run("plain"), 2))
    short = dict(max_steps=2)
    runs = {
        "optimizer": dict(engine=engine(accumulation_steps=2), diagnose_every=2),
        "resumed": dict(engine=OPTIMIZER, resume=start),
        "sra": dict(engine=OPTIMIZER, loss_type="sra") | short,
        "exchange": dict(engine=EngineConfig(bf16_gradients=True)) | short,
        "exchange_sharded": dict(engine=engine(bf16_gradients=True)) | short,
        "weights": dict(engine=engine(BF16, bf16_weights=True)) | short,
        "weights_sharded": dict(engine=engine(BF16, bf16_weights=True, shard="optimizer")) | short,
    }
    check_runs(folder, [config(folder, name, **c) for name, c in runs.items()], processes=2)
    return lambda name: folder / name


@pytest.fixture(scope="module")
def two_compiled(folder):
    """As `two`, of compiled networks."""
    if not SHARDS:
        pytest.skip("this version of torch shards on GPUs only")
    engines = {
        "compiled": EngineConfig(compile=True, accumulation_steps=2),
        "compiled_sharded": engine(compile=True, checkpoint_activations=2),
    }
    runs = [config(folder, name, engine=own, max_steps=2) for name, own in engines.items()]
    check_runs(folder, runs, processes=2)
    return lambda name: folder / name


def test_a_sharded_optimizer_changes_rounding_only(run, two):
    plain = run("plain", diagnose_every=2)
    np.testing.assert_allclose(logged_rows(two("optimizer")), logged_rows(plain), rtol=2e-4)
    sra = run("sra_alone", loss_type="sra", max_steps=2)
    rows = [
        [[row[name] for name in ("loss", "sra_loss", "grad_norm")] for row in log]
        for log in (read_log(two("sra") / "metrics.jsonl"), read_log(sra / "metrics.jsonl"))
    ]
    np.testing.assert_allclose(*rows, rtol=5e-4)


def test_its_checkpoints_are_whole_and_resume_both_ways(run, two):
    plain = logged_rows(run("plain"))
    np.testing.assert_allclose(logged_rows(two("resumed")), plain[2:], rtol=2e-4)
    start = str(checkpoint(two("optimizer"), 2))
    np.testing.assert_allclose(logged_rows(run("back", resume=start)), plain[2:], rtol=2e-4)
    one, there = (read_checkpoint(checkpoint(path)) for path in (run("plain"), two("optimizer")))
    for kind in ("model", "ema"):
        assert one[kind].keys() == there[kind].keys()
        for name, value in one[kind].items():
            torch.testing.assert_close(there[kind][name], value, rtol=1e-2, atol=1e-3)
    assert one["opt"]["state"].keys() == there["opt"]["state"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compiled", "compiled_sharded"])
def test_compiled_steps_of_two_processes_change_rounding_only(run, two_compiled, name):
    """In DDP, of which only the last part of a step exchanges gradients, and with shards."""
    plain = logged_rows(run("plain"))
    np.testing.assert_allclose(logged_rows(two_compiled(name)), plain[:2], rtol=2e-4)


def test_exchanged_gradients_are_rounded_to_bf16(run, two):
    """The first step's loss is that of one process; its gradient is off by bf16's rounding."""
    plain = logged_rows(run("plain"))
    for name in ("exchange", "exchange_sharded"):
        rows = logged_rows(two(name))
        assert rows[0][:3] == pytest.approx(plain[0][:3], rel=1e-5)
        assert 1e-6 < abs(rows[0][3] / plain[0][3] - 1) < 2**-8
        np.testing.assert_allclose(rows, plain[:2], rtol=0.05)


def test_weights_in_bf16_have_masters(run, two, folder):
    """With both kinds of masters: a copy where nothing is sharded, and FSDP2's shards."""
    plain = logged_rows(run("plain_bf16", engine=BF16, max_steps=2))
    half = run("weights_alone", engine=engine(BF16, bf16_weights=True))
    rows = logged_rows(half)
    assert rows != plain
    for other in (plain, logged_rows(two("weights")), logged_rows(two("weights_sharded"))):
        np.testing.assert_allclose(other, rows[:2], rtol=0.01)
    for path in (half, two("weights"), two("weights_sharded")):
        kept = read_checkpoint(checkpoint(path, 2))
        tensors = [*kept["model"].values(), *kept["ema"].values()]
        tensors += [m for state in kept["opt"]["state"].values() for m in state.values()]
        assert {t.dtype for t in tensors} == {torch.float32}
        finer = [t for t in kept["model"].values() if not torch.equal(t, t.bfloat16().float())]
        assert len(finer) > len(kept["model"]) / 2  # than what the network computes with
    start = str(checkpoint(half, 2))
    again = run("weights_again", engine=engine(BF16, bf16_weights=True), resume=start)
    assert logged_rows(again) == rows[2:]


@pytest.mark.parametrize("option", ["bf16_weights", "bf16_residual"])
def test_tokens_between_blocks_have_the_dtype_that_was_asked_for(folder, option):
    AcceleratorState._reset_state()
    bf16 = engine(BF16, **{option: True})
    training = train.Training(config(folder, option, engine=bf16, max_steps=1))
    seen = []
    hook = training.network.blocks[3].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    training.run()
    hook.remove()
    AcceleratorState._reset_state()
    expected = torch.bfloat16 if option == "bf16_residual" else torch.float32
    assert {x.dtype for x in seen} == {expected}
    for master, weight in training.parallel.weights():
        assert torch.equal(weight, master.to(weight.dtype))


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("--fsdp and --shard optimizer", EngineConfig(fsdp=True, shard="optimizer")),
        ("--bf16-weights needs --precision bf16; it is fp32",
         EngineConfig(precision="fp32", bf16_weights=True)),
        ("--bf16-residual needs --precision bf16; it is tf32",
         EngineConfig(precision="tf32", bf16_residual=True)),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(message, settings):
    with pytest.raises(ValueError, match=message):
        check_train_config(dataclasses.replace(TINY_DIGITS, engine=settings))


def test_a_checkpoint_from_before_these_options_was_made_without_them():
    before = dataclasses.asdict(TINY_DIGITS)
    for name in ("shard", "bf16_gradients", "bf16_weights", "bf16_residual"):
        del before["engine"][name]
    assert differences(TINY_DIGITS, before) == []
    now = dataclasses.replace(TINY_DIGITS, engine=EngineConfig(bf16_gradients=True))
    assert differences(now, before) == ["--bf16-gradients: False there, True here"]


@pytest.mark.parametrize("processes", [1, 2])
def test_sharding_is_refused_where_torch_cannot(processes, tmp_path, monkeypatch):
    started = SimpleNamespace(num_processes=processes, device=torch.device("cpu"))
    monkeypatch.setattr("training.parallel.Accelerator", lambda **_: started)
    monkeypatch.delattr(torch.cpu.Stream, "record_event", raising=False)  # as torch 2.6 has it
    refused = pytest.raises(ValueError, match=r"--shard all: torch .* shards on GPUs only")
    with refused if processes > 1 else nullcontext():
        assert start_accelerator(EngineConfig(fsdp=True), tmp_path) is started
    assert start_accelerator(EngineConfig(), tmp_path) is started
