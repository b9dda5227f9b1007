"""Refusals of the operating system, in one line with the file and what to do."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forking import ENVIRONMENT
from launching import ROOT

from runtime.command import RunError, at_home, complaint, parse_command, run_errors, usage_errors
from training.config import TrainConfig
from training.settings_record import RUN_SECTION


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_refusal_is_one_line_with_its_file(number, capsys):
    with pytest.raises(SystemExit) as exit, usage_errors():
        raise OSError(number, os.strerror(number), "/some/file")
    printed = capsys.readouterr().err
    assert exit.value.code == 2 and printed.count("\n") == 1
    assert "/some/file: " in printed and "Errno" not in printed


@pytest.mark.parametrize(
    "act, expected",
    [
        (lambda folder: folder.read_bytes(), "it is a folder, where a file is meant"),
        (lambda folder: (folder / "a" / "b").write_bytes(b""), "where a folder is needed"),
        (lambda folder: (folder / "none").read_bytes(), "no such file"),
        (lambda folder: np.load(folder / "none.npz"), "no such file"),
        (lambda folder: (folder / ("x" * 300)).touch(), "too long"),
        (lambda folder: Path("/dev/full").write_text("x" * 10**6), "No space left on the disk"),
    ],
)
@pytest.mark.parametrize("code", [2, 1])
def test_real_refusals(tmp_path, act, expected, code, capsys):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(SystemExit) as exit, usage_errors() if code == 2 else run_errors("Kept"):
        act(tmp_path)
    assert exit.value.code == code and expected in capsys.readouterr().err


def test_other_errors_keep_their_words(capsys):
    for error in (FileNotFoundError("no config here"), RunError("lost"), ValueError("--lr -1")):
        with pytest.raises(SystemExit), usage_errors():
            raise error
    assert [line.split("error: ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "no config here",
        "lost",
        "--lr -1",
    ]


def test_a_process_that_is_gone_while_setting_up_is_one_line(capsys):
    with pytest.raises(SystemExit) as exit, usage_errors():
        raise RuntimeError("Connection closed by peer [127.0.0.1]:29500\nat pair.cc")
    printed = capsys.readouterr().err
    assert exit.value.code == 1 and printed.count("\n") == 1
    assert "another process of this launch has ended" in printed
    with pytest.raises(RuntimeError, match="of another kind"), usage_errors():
        raise RuntimeError("of another kind")


def test_too_many_open_files_are_one_line(capsys):
    """As the loader says it of its processes."""
    with pytest.raises(SystemExit) as exit, run_errors("Kept"):
        raise RuntimeError("Too many open files. Communication with the workers is no longer ...")
    said = "too many open files; raise the limit of the shell (ulimit -n). Kept\n"
    assert exit.value.code == 1 and capsys.readouterr().err.endswith(said)


def test_programming_errors_are_not_hidden():
    with pytest.raises(TypeError), usage_errors():
        raise TypeError


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--modle SiT-S/2", "Unrecognized options: --modle, SiT-S/2; perhaps you meant --model"),
        ("--lr fast", "Error parsing --lr: could not convert string to float: 'fast'"),
        ("--betas 1", "Missing value for argument "),
        (
            "--loss-type best",
            "invalid choice 'best' for argument '--loss-type'. Expected one of ('",
        ),
    ],
)
def test_a_bad_command_line_is_one_line(words, says, capsys):
    with pytest.raises(SystemExit) as exit:
        parse_command(TrainConfig, words.split(), "train.py")
    printed = capsys.readouterr().err
    assert exit.value.code == 2 and printed.count("\n") == 1
    assert printed.startswith(f"train.py: error: {says}") and words.split()[0] in printed
    assert printed.endswith("; see train.py --help\n")


def test_the_home_folder_is_meant_by_its_sign_where_shells_leave_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "run.toml").write_text('results-dir = "~/results"\nrun-name = "a~/b"\n')
    words = [["--data-path=~/a b", "--ckpt", "~"], ["--config", str(tmp_path / "run.toml")]]
    flags, file = (parse_command(TrainConfig, args, section=RUN_SECTION) for args in words)
    assert (flags.data_path, flags.ckpt) == ("/home/me/a b", "/home/me")
    assert (file.results_dir, file.run_name) == ("/home/me/results", "a~/b")


def test_complaints_are_found_in_frames():
    framed = (
        "╭─ Title ───╮\n│ One line  │\n│ goes on.  │\n│ ───────── │\n│ More help │\n╰───────────╯"
    )
    assert complaint(framed) == "One line goes on"
    assert complaint(framed.replace("│", "|")) == "One line goes on"
    assert complaint("") == ""


def test_a_home_that_nobody_knows_is_refused(monkeypatch):
    """A user without an entry in the container's list; a folder named ~ was made."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for word in ("~/results", "--out=~/a.npz", "~"):
        with pytest.raises(ValueError, match=f"^{word}: neither .HOME nor the system"):
            at_home(word)
    assert at_home("a~/b") == "a~/b"


def test_ctrl_c_while_modules_are_loaded_is_one_line(tmp_path):
    script = tmp_path / "loads.py"
    script.write_text(
        "import sys, time\n"
        "from runtime.command import parse_command\n"
        "from training.config import TrainConfig\n"
        "parse_command(TrainConfig, args=[])\n"
        "print('loading', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's `&` has it ignored, in all that the shell starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == "\nloads.py: stopped by Ctrl-C\n"
    assert process.wait() == -signal.SIGINT  # 130 to a shell


@pytest.mark.parametrize("columns", ["1", "10", "0"])
def test_a_narrow_terminal_is_no_reason_to_wrap_for_ever(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse_command(TrainConfig, args=["--lr", "much"])
    wide = capsys.readouterr().err
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        parse_command(TrainConfig, args=["--lr", "much"])
    assert capsys.readouterr().err == wide and os.environ["COLUMNS"] == columns
