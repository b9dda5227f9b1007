"""Processes that are forked from one that has imported torch and the project: quick to start.

`forked_python()` is the path of an interpreter to put in the place of `sys.executable`.
"""

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import psutil

# one thread for each process: as many as the machine has cores would only get in each other's way
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # pyarrow's memory, of the server
FORK_SERVER = "LAYERSYNC_TESTS_FORK_SERVER"  # names its folder to all processes of a test session


def reserve_fork_server() -> Path:
    """Name a folder for the session's fork server, which the first launch starts."""
    folder = Path(tempfile.mkdtemp(prefix="fork-"))
    os.environ[FORK_SERVER] = str(folder)
    here = Path(__file__).parent
    words = [sys.executable, str(here / "server.py"), str(folder), str(os.getpid())]
    (folder / "words").write_text("\n".join(words))
    python = folder / "python"
    client = [sys.executable, "-IS", str(here / "client.py"), str(folder)]
    python.write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
    python.chmod(0o755)
    return folder


def end_fork_server(folder: Path) -> None:
    """Remove its folder, without which it ends."""
    shutil.rmtree(folder, ignore_errors=True)


@cache
def forked_python() -> str:
    """Path of an interpreter with torch and the project imported; starts the server once."""
    folder = Path(os.environ[FORK_SERVER])
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "log").exists():
            with open(folder / "log", "w") as log:
                subprocess.Popen(
                    (folder / "words").read_text().split("\n"),
                    env=ENVIRONMENT | ONE_THREAD,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
    return str(folder / "python")


def forked(pid: int) -> psutil.Process:
    """The process that works for this client of the fork server."""
    return psutil.Process(int((Path(os.environ[FORK_SERVER]) / str(pid)).read_text()))


def family(pid: int) -> list[psutil.Process]:
    """A process, its children, theirs, and those that the fork server started for any of them."""
    members, waiting = [], [psutil.Process(pid)]
    while waiting:
        members.append(waiting.pop())
        waiting += members[-1].children()
        try:
            waiting.append(forked(members[-1].pid))
        except (FileNotFoundError, psutil.NoSuchProcess):
            continue
    return members
