"""Output that nobody takes ends no work: a reader gone, a full disk, a closed terminal."""

import os
import pty
import signal
import subprocess

import pytest
from forking import ENVIRONMENT
from launching import ROOT, TINY, command

from training.checkpoint import latest_checkpoint

FLAGS = "--dataset-name digits --num-classes 10 --global-batch-size 8 --num-workers 0 --log-every 1"


def start(folder, steps: int, **files) -> subprocess.Popen:
    where = ["--results-dir", folder, "--run-name", "run", "--sample-every", "0"]
    words = command("train.py", *TINY, *FLAGS.split(), "--max-steps", steps, *where)
    return subprocess.Popen(words, env=ENVIRONMENT, cwd=ROOT, text=True, **files)


def last_step(folder) -> int:
    return int(latest_checkpoint(folder / "run" / "checkpoints").stem)


def test_a_run_goes_on_when_the_reader_of_its_log_is_gone(tmp_path):
    run = start(tmp_path, 40, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert "parameters" in run.stdout.readline()
    run.stdout.close()
    assert run.stderr.read() == "" and run.wait() == 0
    assert last_step(tmp_path) == 40


def test_a_run_goes_on_when_the_disk_of_its_log_is_full(tmp_path):
    with open("/dev/full", "w") as full:
        run = start(tmp_path, 5, stdout=full, stderr=subprocess.PIPE)
    said = run.stderr.read()
    assert run.wait() == 0 and last_step(tmp_path) == 5
    assert said.count("\n") == 1, said
    lost = "standard output cannot be written (No space left on device): its lines are lost"
    assert said.startswith(f"train.py: warning: {lost}")


def test_errors_that_cannot_be_said_still_have_their_exit_code(tmp_path):
    with open("/dev/full", "w") as full:
        assert start(tmp_path, -1, stdout=full, stderr=full).wait() == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("nohup", [False, True])
def test_a_run_is_saved_when_its_terminal_is_closed(tmp_path, nohup):
    """Or goes on, if it was to ignore that: SIGHUP, and errors of whatever is printed after."""
    ours, theirs = pty.openpty()
    # the tests may be under nohup themselves
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    run = start(tmp_path, 60 if nohup else 100_000, stdout=theirs, stderr=theirs)
    signal.signal(signal.SIGHUP, before)
    os.close(theirs)
    while b"step 3" not in os.read(ours, 4096):
        pass
    os.close(ours)
    run.send_signal(signal.SIGHUP)
    assert run.wait(timeout=60) == (0 if nohup else 75)
    assert last_step(tmp_path) == 60 if nohup else 0 < last_step(tmp_path) < 100_000


def test_closed_streams_are_none_of_the_files_that_are_opened_after(fork_server, tmp_path):
    script = tmp_path / "closed.py"
    script.write_text(
        "import os, sys\n"
        "from runtime.streams import make_streams_lossy\n"
        "os.close(1)\n"
        "sys.stdout = None\n"
        "make_streams_lossy('closed.py')\n"
        "print('nobody reads this', flush=True)\n"
        "with open('a', 'w') as file:\n"
        "    assert file.fileno() > 2\n"
        "    os.write(1, b'nor this')\n"
        "assert os.stat('a').st_size == 0\n"
    )
    process = fork_server.start([script], folder=tmp_path)
    assert process.wait() == 0, process.stderr


def test_letters_that_the_locale_does_not_have_are_printed_as_numbers(fork_server, tmp_path):
    script = tmp_path / "letters.py"
    script.write_text(
        "import io, os, sys\n"
        "from runtime.streams import make_streams_lossy\n"
        "sys.stdout = io.TextIOWrapper(open(1, 'wb', closefd=False), encoding='ascii')\n"
        "make_streams_lossy('letters.py')\n"
        "print('lambda \\u03bb', os.fsdecode(b'caf\\xe9'), flush=True)\n"
    )
    done = fork_server.start([str(script)], folder=tmp_path)
    assert done.wait(20) == 0, done.stderr
    assert done.stdout == "lambda \\u03bb caf\\udce9\n"
