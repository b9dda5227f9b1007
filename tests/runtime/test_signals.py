"""Stops of a run: ahead of the end of its time, on a signal, and at once on a second one."""

import math
import os
import re
import signal
import sys
import time
from multiprocessing import AuthenticationError
from types import SimpleNamespace

import pytest
import torch
from launching import TINY
from torch._subclasses.fake_tensor import FakeTensorMode

from runtime import signals
from runtime.job_time import job_end
from runtime.signals import MARGIN_SECONDS, SIGNALS, StopRequest, ignore_lost_connections
from scripts.benchmarks.counted_operations import Counting
from training.checkpoint import latest_checkpoint


@pytest.fixture
def job(monkeypatch):
    """A job whose time ends at `job.end`, at the time `job.now`."""
    job = SimpleNamespace(now=0.0, end=1000.0, asked=1000.0)
    clock = SimpleNamespace(time=lambda: job.now, monotonic=lambda: job.now)
    monkeypatch.setattr(signals, "time", clock)
    monkeypatch.setattr(signals, "job_end", lambda ask=False: job.asked if ask else job.end)
    before = [signal.getsignal(number) for number in SIGNALS]
    yield job
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def stop_request(**settings) -> StopRequest:
    return StopRequest(SimpleNamespace(is_main_process=True, num_processes=1), **settings)


def stops_at(job, stop: StopRequest, every: float) -> float:
    """The time at which a run that looks every so many seconds stops."""
    while not stop.agreed(step=0):
        job.now += every
        assert job.now < 2000
    return job.now


def test_it_stops_ahead_of_the_end_by_a_margin(job):
    assert stops_at(job, stop_request(), every=1) == 1000 - MARGIN_SECONDS - 1
    assert stop_request().reason == "a signal to another process"


@pytest.mark.parametrize("seconds", [0.0, 60.0, 200.0])
def test_the_margin_holds_twice_the_last_checkpoint(job, seconds):
    stop = stop_request()
    stop.checkpoint_took(5.0)
    stop.checkpoint_took(seconds)
    assert stops_at(job, stop, every=1) == 1000 - MARGIN_SECONDS - 2 * seconds - 1
    assert stop.reason.startswith("the end of the job's time at ")


def test_before_the_first_checkpoint_it_goes_by_the_size(job):
    """10.8 GB of XL/2, at 100 MB a second."""
    stop = stop_request(checkpoint_bytes=10_800_000_000)
    assert stops_at(job, stop, every=1) == 1000 - MARGIN_SECONDS - 2 * 108 - 1


def test_slow_steps_count(job):
    """At 840 s there would be time enough, but not any more at the next look, at 980 s."""
    assert stops_at(job, stop_request(), every=140) == 840


def test_a_time_that_was_extended_is_asked_for(job):
    job.asked = 1500.0
    assert stops_at(job, stop_request(), every=1) == 1500 - MARGIN_SECONDS - 1


def test_without_an_end_it_never_stops(job):
    job.end = job.asked = None
    stop = stop_request()
    job.now = 1e9
    assert not stop.agreed(step=0)


def several(device: str, requests: list[bool]) -> StopRequest:
    """A process of two, of which the other one has these reasons to stop, one after the other."""
    reasons = iter(requests)
    return StopRequest(
        SimpleNamespace(
            is_main_process=True,
            num_processes=2,
            device=torch.device(device),
            reduce=lambda flag, how: flag + next(reasons),
        )
    )


def test_several_processes_ask_at_every_eighth_step_and_hear_at_the_next(job):
    other = several("cpu", [False, True])
    assert [step for step in range(1, 20) if other.agreed(step)] == [17]
    own = several("cpu", [False, False])
    own.received = signal.SIGTERM
    assert [step for step in range(1, 17) if own.agreed(step)] == [9]


def test_the_margin_holds_the_step_until_the_answer_is_heard(job):
    """Steps of 2 s: a look every 16 s, and 2 s until the other process knows."""
    stop, stopped = several("cpu", [False] * 70), []
    for step in range(1, 500):
        job.now = 2.0 * step
        if stop.agreed(step):
            stopped.append(job.now)
    assert stop.margin == MARGIN_SECONDS + 16 + 2
    # the first look after that begins, and the step after it
    assert stopped[0] == math.ceil((1000 - stop.margin) / 16) * 16 + 2


def test_asking_waits_for_no_gpu(job, monkeypatch):
    """On fake tensors: an answer that is read only after an event, and nothing copied to a GPU."""
    happened = []
    event = SimpleNamespace(
        record=lambda: happened.append("record"), synchronize=lambda: happened.append("wait")
    )
    monkeypatch.setattr("torch.cuda.Event", lambda: event)
    stop = several("cuda", [False])
    with FakeTensorMode(), Counting() as counting:
        assert not stop.agreed(8)
    (counts,) = counting.parts.values()
    assert counts.copies == counts.waits == [] and happened == ["record"]
    stop.answer = torch.ones(())
    assert stop.agreed(9) and happened == ["record", "wait"] and not stop.agreed(10)


def test_what_says_when_the_time_ends(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\necho "$SLURM_TIME_FORMAT $*" >asked; echo 2026-11-28T13:30:00\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    assert job_end() is None and job_end(ask=True) is None  # no job
    told = time.mktime((2026, 11, 28, 13, 30, 0, 0, 0, -1))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert job_end() == told
    assert (tmp_path / "asked").read_text() == "standard --noheader --job=7 --format=%e\n"
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1234")
    assert job_end() == 1234 and job_end(ask=True) == told
    squeue.write_text("#!/bin/sh\necho N/A\n")
    assert job_end(ask=True) == 1234
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert job_end() is None


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({}, -signal.SIGTERM),  # a person who insists
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "9999999999"}, 75),  # says it several times
        ({"TORCHELASTIC_RUN_ID": "x"}, 75),  # torchrun passes Ctrl-C on as SIGTERM
    ],
)
def test_a_second_signal_ends_at_once_without_a_checkpoint(
    fork_server, tmp_path, environment, code
):
    words = [
        "train.py", *TINY, "--dataset-name", "digits", "--num-classes", 10, "--max-steps", 100_000,
        "--global-batch-size", 8, "--num-workers", 0, "--log-every", 1, "--sample-every", 0,
        "--results-dir", tmp_path, "--run-name", "run",
    ]  # fmt: skip
    process = fork_server.start(words, environment=environment)
    log = tmp_path / "run" / "metrics.jsonl"
    while not log.exists() or not log.read_text():
        assert process.poll() is None, process.stderr
        time.sleep(0.01)
    pid = process.pid
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        os.kill(pid, number)  # both are there when it goes on, and come in this order
    # the kernel may hand them to two threads, and then the second comes first
    assert process.wait() == code or (code < 0 and process.returncode == -signal.SIGINT)
    first = r"train\.py: (Ctrl-C|SIGTERM): the run finishes this step, writes a checkpoint"
    assert re.search(first, process.stderr)
    assert ("again: ended at once" in process.stderr) == (code < 0)
    assert bool(latest_checkpoint(tmp_path / "run" / "checkpoints")) == (code == 75)


def test_a_lost_connection_of_a_loading_process_is_no_traceback(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: told.append(error[0]))
    ignore_lost_connections()
    for kind in (EOFError, BrokenPipeError, ConnectionResetError, AuthenticationError, ValueError):
        sys.excepthook(kind, kind(), None)
    assert told == [ValueError]
