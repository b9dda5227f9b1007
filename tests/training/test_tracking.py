"""Averages over windows, and a log that resuming does not tear."""

import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import signal

import pytest
import torch
from accelerate import Accelerator
from launching import TINY_DIGITS

from training.checks import check_train_config
from training.config import TrackingConfig, TrainConfig
from training.runs import find_latest
from training.tracking import (
    Meter,
    RunLog,
    cut_back,
    honour_old_variables,
    read_log,
    wandb_id,
    wandb_options,
)


class OneProcess:
    device = torch.device("cpu")

    def reduce(self, tensor, reduction):
        return tensor


def test_meter_averages_over_the_window():
    meter = Meter(OneProcess())
    for step in range(1, 5):
        meter.add({"a": torch.tensor(float(step)), "b": torch.tensor(10.0)})
    assert meter.averages() == {"a": 2.5, "b": 10.0}
    meter.add({"a": torch.tensor(7.0), "b": torch.tensor(1.0)})
    assert meter.averages() == {"a": 7.0, "b": 1.0}


def test_meter_continues_a_window_from_its_state():
    values = [{"a": torch.tensor(v)} for v in (0.1, 0.2, 0.3, 0.4)]
    whole, before = Meter(OneProcess()), Meter(OneProcess())
    for meter in (whole, before):
        meter.add(values[0])
        meter.add(values[1])
    whole.fold()
    after = Meter(OneProcess(), json.loads(json.dumps(before.fold())))
    for meter in (whole, after):
        meter.add(values[2])
        meter.add(values[3])
    assert whole.averages() == after.averages()


def test_cut_back_keeps_lines_up_to_the_step(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": s, "loss": s / 3}) + "\n" for s in range(1, 6)))
    with open(log, "a") as file:
        file.write('{"step": 6, "lo')  # a process was killed here
    cut_back(log, 4)
    assert read_log(log) == [{"step": s, "loss": s / 3} for s in range(1, 5)]
    assert log.read_text().endswith("\n")


@pytest.mark.parametrize("step", [0, 9])
def test_cut_back_at_the_ends(tmp_path, step):
    log = tmp_path / "metrics.jsonl"
    cut_back(log, step)
    assert not log.exists()
    log.write_text('{"step": 5}\n')
    cut_back(log, step)
    assert len(read_log(log)) == (1 if step else 0)


def test_sits_variables_are_wandbs_unless_those_are_set(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    for name, value in (("WANDB_KEY", "key"), ("ENTITY", "us"), ("PROJECT", "old")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_PROJECT", "own")
    honour_old_variables()
    assert os.environ["WANDB_API_KEY"] == "key" and os.environ["WANDB_ENTITY"] == "us"
    assert os.environ["WANDB_PROJECT"] == "own"


def test_wandb_writes_into_the_runs_folder_and_goes_on_in_the_same_run(tmp_path):
    folder = tmp_path / "run"
    first, again = (wandb_options(TrainConfig(wandb=True), folder) for _ in range(2))
    assert first == again and first["dir"] == str(folder) and first["name"] == "run"
    named = wandb_options(TrainConfig(wandb=True, wandb_run_name="mine"), folder)
    assert named["name"] == "mine" and named["id"] == first["id"]


def test_flags_say_where_a_run_goes_and_the_rest_is_left_to_wandb(tmp_path):
    left = wandb_options(TrainConfig(wandb=True), tmp_path / "run")
    assert not {"entity", "group", "tags"} & left.keys()
    tracking = TrackingConfig(wandb_entity="us", wandb_group="g", wandb_tags=("a", "b"))
    given = wandb_options(TrainConfig(wandb=True, tracking=tracking), tmp_path / "run")
    assert (given["entity"], given["group"], given["tags"]) == ("us", "g", ["a", "b"])
    with pytest.raises(ValueError, match="--wandb-entity has no effect without --wandb"):
        check_train_config(TrainConfig(tracking=tracking))


@pytest.mark.parametrize(("flag", "project"), [(None, "variable"), ("mine", "mine")])
def test_the_project_is_the_flags_or_the_variables(tmp_path, monkeypatch, flag, project):
    monkeypatch.setenv("WANDB_PROJECT", "variable")
    given = []
    accelerator = Alone()
    accelerator.init_trackers = lambda name, **more: given.append((name, more["init_kwargs"]))
    c = dataclasses.replace(TINY_DIGITS, wandb=True, tracking=TrackingConfig(wandb_project=flag))
    RunLog(accelerator, tmp_path, c, 0)
    assert given[0][0] == project and given[0][1]["wandb"]["dir"] == str(tmp_path)


class Alone(OneProcess):
    """As much of an accelerator as a log needs."""

    is_main_process, trackers = True, ()

    def init_trackers(self, *_, **__) -> None:
        pass


@pytest.mark.parametrize("file_size", [0, 100])
def test_a_full_disk_leaves_the_config_of_before(tmp_path, file_size):
    """And so a run that can be continued: this was an empty file."""
    RunLog(Alone(), tmp_path, TINY_DIGITS, 0)
    before = (tmp_path / "config.json").read_bytes()

    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        try:
            RunLog(Alone(), tmp_path, dataclasses.replace(TINY_DIGITS, log_every=7), 0)
        except OSError as error:
            os._exit(7 if "config.json" in str(error.filename) else 8)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 7
    assert (tmp_path / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert find_latest(TINY_DIGITS, tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json: damaged.*remove"):
        find_latest(TINY_DIGITS, tmp_path)


def test_an_empty_name_for_wandb_is_drawn_again(tmp_path):
    first = wandb_id(tmp_path)
    assert len(first) == 32 and wandb_id(tmp_path) == first
    (tmp_path / "wandb_id.txt").write_text("")
    assert len(wandb_id(tmp_path)) == 32


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', "[3]", '{"loss": 1}', '{"step": "2"}', "\x00"])
def test_a_torn_log_is_cut_where_it_is_torn(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n' + torn + "\n")
    cut_back(path, 9)
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n'


def test_a_tracker_that_cannot_write_ends_no_run(tmp_path, capfd):
    """Nor does it print its thread's traceback."""
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path)
    log = RunLog(accelerator, tmp_path, TINY_DIGITS, 0)
    log.write(1, {"loss": 1.0})
    shutil.rmtree(tmp_path / "layersync")
    for step in (2, 3):
        log.write(step, {"loss": 1.0})
    log.close()
    assert [row["step"] for row in read_log(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "the trackers cannot write (" in said
