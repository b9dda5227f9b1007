"""Checkpoints: whole or absent, chosen by step, and never trusted."""

import argparse
import math
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import time

import pytest
import torch
from forking import ENVIRONMENT, forked_python
from launching import ROOT

from models import SiT_models
from models.checkpoint_file import read_checkpoint
from models.trained import load_weights, weights_of
from training.checkpoint import latest_checkpoint, read_for_resume, save_checkpoint


def tiny():
    return SiT_models["SiT-Ti/2"](input_size=8, in_channels=1, num_classes=10)


def test_round_trip(tmp_path):
    state = {"model": tiny().state_dict(), "step": 3, "config": {"lr": 1e-4, "pairs": [[4, 7]]}}
    save_checkpoint(tmp_path / "a.pt", state)
    again = read_checkpoint(tmp_path / "a.pt")
    assert again["config"] == state["config"] and again["step"] == 3
    assert all(torch.equal(again["model"][key], value) for key, value in state["model"].items())


WRITER = """
import sys, torch
from pathlib import Path
from training.checkpoint import save_checkpoint
folder = Path(sys.argv[1])
for step in range(1, 10_000):
    tensor = torch.full((2_000_000,), float(step))
    save_checkpoint(folder / f"{step % 3}.pt", {"step": step, "tensor": tensor})
    print(step, flush=True)
"""


def test_killed_while_writing_leaves_whole_files(tmp_path):
    for delay in (0.0, 0.013, 0.029):
        writer = subprocess.Popen(
            [forked_python(), "-c", WRITER, str(tmp_path)],
            env=ENVIRONMENT,
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for _ in range(4):
            writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        for path in tmp_path.glob("*.pt"):
            content = read_checkpoint(path)
            assert (content["tensor"] == content["step"]).all()
        assert max(read_checkpoint(path)["step"] for path in tmp_path.glob("*.pt")) >= 4
    deadline = time.time() + 60
    while list(tmp_path.glob("*.tmp")):  # the killed process may take a moment to be gone
        assert time.time() < deadline
        save_checkpoint(tmp_path / "last.pt", {"step": 1})


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_disk_that_fills_up_is_said_with_the_name_of_the_file(tmp_path, size):
    """Also when torch, which finishes the archive, raises an error of its own."""

    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            save_checkpoint(tmp_path / "2.pt", {"step": 2, "x": torch.zeros(100_000)})
        except OSError as error:
            said = r"checkpoint \S*2\.pt: cannot be written \(.*File too large"
            os._exit(7 if re.match(said, str(error)) else 8)

    save_checkpoint(tmp_path / "1.pt", {"step": 1})
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 7
    assert [path.name for path in tmp_path.iterdir()] == ["1.pt"]


def complete(step: int, /, **other) -> dict:
    """All parts that a run continues from, of a network of one weight."""
    weight = {"w": torch.full((9999,), float(step))}
    opt = {"state": {"w": {"exp_avg": torch.zeros(9999)}}, "param_groups": [{"lr": 1e-4}]}
    sizes = dict(input_size=8, in_channels=1, num_classes=10)
    return dict(
        model=weight, ema=weight, opt=opt, step=step, config={"image_size": 8},
        arch=dict(name="SiT-Ti/2", **sizes), data_length=100, last_step=50,
        meter={"sums": [1.0], "count": 1}, regularizers=[{}],
    ) | other  # fmt: skip


def test_latest_is_by_step_and_passes_over_what_cannot_be_continued(tmp_path, capsys):
    save_checkpoint(tmp_path / "zzz.pt", complete(5))
    save_checkpoint(tmp_path / "aaa.pt", complete(10))
    assert latest_checkpoint(tmp_path).name == "aaa.pt"
    save_checkpoint(tmp_path / "cut.pt", complete(20))
    content = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    save_checkpoint(tmp_path / "text.pt", complete(30, step="thirty"))
    save_checkpoint(tmp_path / "nan.pt", complete(40, ema={"w": torch.full((9999,), math.nan)}))
    save_checkpoint(tmp_path / "part.pt", {"step": 50})
    assert latest_checkpoint(tmp_path).name == "aaa.pt"
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("warning: passed over: checkpoint ") == 4
    for reason in (
        r"cut\.pt: truncated", r"text\.pt: altered or damaged: its step is 'thirty'",
        r"nan\.pt: ema\.w holds NaN", r"part\.pt: without model",
    ):  # fmt: skip
        assert re.search(reason, said), said
    assert latest_checkpoint(tmp_path / "empty") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(step=True), "its step is True, it must be a whole number of at least 0"),
        (dict(step=2**60), "its step is"),
        (dict(last_step=0), "its last_step is 0"),
        (dict(model={"w": torch.zeros(3, dtype=torch.int64)}), "its model w is Tensor"),
        (dict(ema={}), "its ema is dict, it must be a state dict"),
        (dict(config=[1]), "its config is list, it must be a dict of settings"),
        (dict(config={"image_size": "big"}), "its config image_size is 'big'"),
        (dict(arch={"name": "SiT-S/2"}), "its arch is dict, it must be complete, it lacks"),
        (dict(meter={"sums": [0.0, "a"], "count": 1}), "its meter sums is list"),
        (dict(opt={"state": {}}), "its opt is dict, it must be an optimizer's"),
        (
            dict(opt={"state": {"w": {"exp_avg": torch.zeros(2)}}, "param_groups": []}),
            "its opt exp_avg of w is Tensor, it must be a tensor as large as its weights",
        ),
    ],
)
def test_altered_content_is_named(tmp_path, change, reason):
    save_checkpoint(tmp_path / "a.pt", complete(5, **change))
    with pytest.raises(ValueError, match=rf"a\.pt: altered or damaged: {re.escape(reason)}"):
        read_checkpoint(tmp_path / "a.pt")


FOREIGN = [b"", b"not a checkpoint", b"hello", b"torch>=2.6\n", pickle.dumps({"a": 1})[:-3]]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", FOREIGN)
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pt: truncated, or not a PyTorch file"):
        read_checkpoint(tmp_path / "a.pt")


class Trap:
    def __reduce__(self):
        return (open, ("sprung", "w"))


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, "trap.pt")
    with pytest.raises(ValueError, match=r"holds more than tensors.*GLOBAL.*open"):
        read_checkpoint("trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_files_from_before_zip_archives_are_read(tmp_path):
    torch.save({"step": 4}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for mmap in (False, True):
        assert read_checkpoint(tmp_path / "old.pt", mmap=mmap)["step"] == 4


def test_official_layouts_load(tmp_path):
    """SiT: a dict with ema and a Namespace; DDP and compile prefixes; REPA's projectors; raw."""
    weights = tiny().state_dict()
    prefixed = {f"module._orig_mod.{key}": value for key, value in weights.items()}
    repa = {**weights, "projectors.0.0.weight": torch.zeros(3)}
    zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
    layouts = {
        "sit": {"model": zeros, "ema": weights, "opt": {}, "args": argparse.Namespace(lr=1)},
        "ddp": {"ema": prefixed},
        "repa": {"model": zeros, "ema": repa, "steps": 400},
        "raw": weights,
    }
    for name, content in layouts.items():
        torch.save(content, tmp_path / name)
        model = tiny()
        load_weights(model, weights_of(read_checkpoint(tmp_path / name), name), name)
        assert all(torch.equal(a, weights[k]) for k, a in model.state_dict().items()), name


def test_weights_of_another_network_are_refused():
    other = SiT_models["SiT-Ti/1"](input_size=8, in_channels=1, num_classes=10).state_dict()
    with pytest.raises(ValueError, match=r"pos_embed is .* there and .* here.* and .* more"):
        load_weights(tiny(), other, "x.pt")


def test_weights_alone_cannot_be_resumed(tmp_path):
    torch.save({"ema": tiny().state_dict()}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"without model, opt, step.*--fine-tune"):
        read_for_resume(tmp_path / "w.pt")
