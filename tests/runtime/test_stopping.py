"""Ctrl-C and a scheduler's signals to commands that lose nothing when they are killed."""

import ctypes
import os
import signal
import time

import pytest
import torch

from models import SiT_models
from runtime.command import run_errors
from runtime.error_text import ended_elsewhere
from runtime.outcome import VARIABLE
from runtime.stopping import signals_kill, signals_raise


@pytest.fixture(autouse=True)
def handlers():
    """Begin with the handlers of a new process, and leave those that were there before."""
    defaults = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGUSR1: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 75, "stopped by SIGTERM. All is kept\n"),
        (signal.SIGUSR1, 75, "stopped by SIGUSR1. All is kept\n"),
        (signal.SIGHUP, 75, "stopped by SIGHUP. All is kept\n"),
        (signal.SIGINT, 130, "stopped by Ctrl-C. All is kept\n"),
    ],
)
def test_a_signal_is_one_line_and_an_exit_code(number, code, said, capsys):
    with pytest.raises(SystemExit) as exit, run_errors("All is kept"):
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert exit.value.code == code and capsys.readouterr().err.endswith(f": {said}")


def test_schedulers_may_say_it_twice(capsys):
    """To a step and then to its job; the second time while the first is being obeyed."""
    with pytest.raises(SystemExit) as exit, run_errors("All is kept"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
    assert exit.value.code == 75 and capsys.readouterr().err.count("stopped by") == 1


def test_handlers_of_others_stay():
    """Both a run that begins within and an earlier handler of the signal keep theirs."""

    def other(*_):
        raise AssertionError

    with run_errors("All is kept"):
        signal.signal(signal.SIGTERM, other)
    assert signal.getsignal(signal.SIGTERM) == other
    with run_errors("All is kept"):
        assert signal.getsignal(signal.SIGTERM) == other
        assert signal.getsignal(signal.SIGUSR1) not in (other, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_forked_process_is_ended_as_ever():
    with run_errors("All is kept"):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        time.sleep(0.1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_sampling_run_says_what_stopped_it_and_continues(fork_server, tmp_path):
    torch.manual_seed(0)
    network = SiT_models["SiT-Ti/2"](input_size=8, in_channels=3, num_classes=5)
    torch.save({"ema": network.state_dict()}, tmp_path / "tiny.pt")
    words = [
        "sample_ddp.py", "ODE", "--ckpt", tmp_path / "tiny.pt", "--vae", "none",
        "--num-fid-samples", 64, "--per-proc-batch-size", 2, "--num-sampling-steps", 20,
        "--sampling-method", "euler", "--out", tmp_path / "a.npz",
    ]  # fmt: skip
    outcome = tmp_path / "outcome"
    process = fork_server.start(words, environment={VARIABLE: str(outcome)})
    while not list((tmp_path / "a.npz.parts").glob("*.npz")):
        assert process.poll() is None, process.stderr
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75 and not outcome.exists()
    assert "sample_ddp.py: stopped by SIGTERM. What is finished in" in process.stderr
    assert "Traceback" not in process.stderr
    assert fork_server.start(words, environment={VARIABLE: str(outcome)}).wait() == 0
    assert outcome.exists() and (tmp_path / "a.npz").exists()


def test_who_waits_for_others_in_a_library_is_killed_at_once():
    """torch waits an hour for others, and no handler of Python's is called then."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with signals_raise(), signals_kill():
            os.write(write, b"1")
            # as the library does, without a return to Python
            ctypes.PyDLL(None).sleep(60)
        os._exit(1)
    os.read(read, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM


def test_signals_have_their_handlers_back_and_stay_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with signals_raise():
        before = [signal.getsignal(number) for number in numbers]
        with signals_kill():
            within = [signal.getsignal(number) for number in numbers]
        assert [signal.getsignal(number) for number in numbers] == before
    assert within == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN]


def test_a_port_that_another_program_has_is_named(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29500")
    error = RuntimeError("The server socket has failed to listen, code: -98, name: EADDRINUSE")
    assert "has port 29500; give another (MASTER_PORT)" in ended_elsewhere(error)
