"""Outcome of a command, for the program that started it: a small file, not an exit code.

Launchers lose exit codes (torchrun ends with 1 whatever its processes ended with) and cannot tell a
run that was preempted from one that failed. A launcher therefore names a file in LAYERSYNC_OUTCOME
and removes it before each start. A command that has ended for good writes it, whole or not at all:

    {"outcome": "finished", "exit_code": 0, "reason": "", "command": "train.py"}
    {"outcome": "failed", "exit_code": 2, "reason": "--lr -1: it must be ...", "command": ...}

Giving the same command again would end the same way. A command that was preempted, killed, or
ended by an error that it does not know writes nothing: the same command may be given again.

Beside it, FILE.progress appears when the command has stored something that it would not do again: a
checkpoint, a part of the samples, a shard of the cache. A launcher that starts the same command
over and over sees by it whether that leads anywhere.
"""

import os
import sys
from dataclasses import asdict, dataclass
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Literal

from runtime.files import write_json
from runtime.launch import is_first_process

VARIABLE = "LAYERSYNC_OUTCOME"
TRIES = 3  # after so many starts without a word and without progress a launcher gives up


@dataclass(frozen=True)
class Outcome:
    """The content of the file."""

    outcome: Literal["finished", "failed"]
    exit_code: int
    reason: str
    """one line, empty when finished"""
    command: str
    """name of the program"""


def finished() -> None:
    """Record that everything is done; the first process speaks for all."""
    if is_first_process():
        _write("finished", 0, "")


def failed(reason: str, exit_code: int) -> None:
    """Record that the command failed for good, from any process; the first reason stays."""
    path = _path()
    if path and not path.exists():
        _write("failed", exit_code, " ".join(reason.split()))


def progressed() -> None:
    """Record that something was stored which the same command would not do again."""
    path = _path()
    if path:
        try:
            progress_path(path).touch()
        except OSError as error:
            print(f"warning: ${VARIABLE}: {error}", file=sys.stderr, flush=True)


def progress_path(outcome: Path) -> Path:
    """Return where progress shows, of a launch whose outcome file is `outcome`."""
    return outcome.with_name(outcome.name + ".progress")


def read_outcome(path: str | Path) -> Outcome | None:
    """Return what a command wrote; None if it wrote nothing."""
    try:
        return Outcome(**loads(Path(path).read_text()))
    except (FileNotFoundError, JSONDecodeError, TypeError):
        return None


def _path() -> Path | None:
    name = os.environ.get(VARIABLE)
    return Path(name) if name else None


def _write(outcome: Literal["finished", "failed"], exit_code: int, reason: str) -> None:
    path = _path()
    if not path:
        return
    record = Outcome(outcome, exit_code, reason, Path(sys.argv[0]).name)
    try:
        write_json(path, asdict(record), indent=None)
    except OSError as error:  # what the command did is done all the same
        print(f"warning: ${VARIABLE}: {error}", file=sys.stderr, flush=True)
