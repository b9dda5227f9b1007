"""Lines that are printed about work: on a terminal and in a log."""

import pty
import re
import sys
import termios

import pytest

from runtime import progress as module
from runtime.progress import Progress, duration, over


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, clock[0] in seconds."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def lines(capsys) -> list[str]:
    """Return what was printed, without the time of day."""
    printed = capsys.readouterr()
    assert printed.err == "" and "\r" not in printed.out
    return [
        re.fullmatch(r"\d\d-\d\d \d\d:\d\d:\d\d (.*)", line)[1] for line in printed.out.splitlines()
    ]


def test_a_log_gets_a_whole_line_once_a_minute(clock, capsys):
    with Progress("samples", 50_000, "image", initial=10_000) as progress:
        for _ in range(20):
            clock[0] += 10
            progress.update(1_000)
    assert lines(capsys) == [
        "samples: 16,000 of 50,000 images, 100 images/s, 6 min left",
        "samples: 22,000 of 50,000 images, 100 images/s, 5 min left",
        "samples: 28,000 of 50,000 images, 100 images/s, 4 min left",
    ]


def test_what_is_said_is_a_line(clock, capsys):
    with Progress("run", 10, "step", lines=False) as progress:
        for _ in range(10):
            clock[0] += 100
            progress.update(note="loss=1")
        progress.say("finished")
    assert lines(capsys) == ["finished"]


def test_a_status_of_ones_own_comes_once_a_minute(clock, capsys):
    with Progress("sweep", 3, "cell", lines=False) as progress:
        for number in range(15):
            progress.show(f"status {number}")
            clock[0] += 10
    assert lines(capsys) == ["status 6", "status 12"]


def test_other_processes_are_silent(clock, capsys):
    with Progress("run", 10, "step", shown=False) as progress:
        clock[0] += 1000
        progress.update(5)
        progress.say("something")
    assert lines(capsys) == []


def test_a_terminal_gets_a_bar(monkeypatch):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with open(theirs, "w") as terminal, open(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", terminal)
        with Progress("run", 4, "step") as progress:
            progress.update(2, note="loss=1")
            progress.say("a line")
            progress.update(2)
        terminal.flush()
        shown = b""
        while b"4/4" not in shown or b"a line\r\n" not in shown:  # or it waits for ever
            shown += screen.read(4096)
    assert b"run: " in shown and b"0/4" in shown


def test_over_gives_the_items(capsys):
    assert list(over(range(5), "bootstrap", "resample")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12_240, "3.4 h"), (181_440, "2.1 d")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
