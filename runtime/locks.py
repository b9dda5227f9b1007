"""One launch at a time for an output: a lock that the first process takes for all of them.

    lock = lock_output("samples.npz", Path("samples.npz.lock"))
    ...
    lock.release()

The first process of a launch holds an flock on a lock file; what the file says names the launch.
The others wait until it names theirs, so they need no process group. The operating system frees
the lock of a process that ended, however it ended.

A busy lock is waited for two minutes, because a job that is queued again may meet its own remains;
LAYERSYNC_LOCK_SECONDS in the environment changes that. A file system that cannot lock is used
without, after one warning.
"""

import atexit
import contextlib
import fcntl
import json
import os
import socket
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from runtime.command import warn
from runtime.files import NO_LOCKS
from runtime.launch import is_first_process, world_size

PATIENCE = "LAYERSYNC_LOCK_SECONDS"
PATIENCE_SECONDS = 120.0
GRACE_SECONDS = 60.0  # the other processes wait this much longer, for the first may start later
POLL_SECONDS = 0.1
LAUNCH_NAMES = (
    "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT",
)  # fmt: skip

HELD: "weakref.WeakValueDictionary[str, OutputLock]" = weakref.WeakValueDictionary()
"""Locks of this process, by the resolved path of the lock file."""


class InUse(ValueError):
    """Another launch is writing the same output."""

    may_pass = True


def lock_output(
    output: str | Path,
    lock_file: str | Path,
    done: Callable[[], bool] = lambda: False,
    patience: float | None = None,
) -> "OutputLock":
    """Take the lock of an output for this launch, before any of its processes writes.

    Args:
        output: what an error calls the output.
        lock_file: the file to lock, made when missing and removed when released.
        done: whether there is nothing left to write; processes other than the first then go on.
        patience: seconds to wait for a busy lock; $LAYERSYNC_LOCK_SECONDS or 120 unless given.

    Returns the lock. It is held until `release`, the end of the process, or until nothing refers
    to it any more; a process that has it already gets the same one again. Raises `InUse`, a
    `ValueError` that names host and process, when another launch keeps it.
    """
    key = os.path.realpath(lock_file)
    if patience is None:
        patience = seconds_of_patience()
    if key in HELD:
        return HELD[key]
    lock = OutputLock(output, Path(key))
    if is_first_process():
        lock.take(patience)
        HELD[key] = lock
    else:
        lock.await_word(done, patience + GRACE_SECONDS)
    return lock


def seconds_of_patience() -> float:
    """Return how long a busy lock is waited for."""
    said = os.environ.get(PATIENCE) or PATIENCE_SECONDS
    try:
        return float(said)
    except ValueError:
        raise ValueError(f"{PATIENCE}={said}: it must be a number of seconds") from None


class OutputLock:
    """The lock of one output; `lock_output` makes it."""

    def __init__(self, output: str | Path, path: Path):
        self.output, self.path = output, path
        self.file: BinaryIO | None = None
        self.made: list[Path] = []  # folders that were missing, the innermost first

    def take(self, patience: float) -> None:
        """Lock the file and write this launch's name into it, for the first process."""
        deadline, told = time.monotonic() + patience, False
        while not self.try_once():
            holder = read_word(self.path)
            if time.monotonic() >= deadline:
                raise InUse(
                    f"{self.output}: in use by {described(holder)}; wait for it or end it, or "
                    f"give another name"
                )
            if not told:
                print(
                    f"{self.output}: waiting up to {patience:.0f} s for {described(holder)}, "
                    f"which is writing it",
                    file=sys.stderr,
                    flush=True,
                )
                told = True
            time.sleep(POLL_SECONDS)

    def try_once(self) -> bool:
        missing = [folder for folder in self.path.parents if not folder.exists()]
        self.made = self.made or missing
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "a+b")  # noqa: SIM115 - it stays open
        locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                if isinstance(error, BlockingIOError):
                    return False
                raise
            locked = False
            warn(
                f"{self.path.parent}: a file system without locks ({error.strerror}): take care "
                f"that no other process writes {self.output}"
            )
        if locked and not is_named(file, self.path):  # its owner removed it in this moment
            file.close()
            return False
        word = {"host": socket.gethostname(), "pid": os.getpid(), "launch": launch_name()}
        file.truncate(0)
        file.write(json.dumps(word | {"locked": locked}).encode())
        file.flush()
        self.file = file
        return True

    def await_word(self, done: Callable[[], bool], patience: float) -> None:
        """Wait until the first process of this launch has the lock, for the other processes."""
        deadline = time.monotonic() + patience
        while not done():
            word = read_word(self.path)
            if word.get("launch") == launch_name() or word.get("locked") is False:
                return
            if time.monotonic() >= deadline:
                raise InUse(
                    f"{self.output}: the first process of this launch did not lock it within "
                    f"{patience:.0f} s"
                )
            time.sleep(POLL_SECONDS)

    def release(self) -> None:
        """Let others have the output; the lock file goes."""
        if self.file is None:
            return
        if is_named(self.file, self.path):
            self.path.unlink(missing_ok=True)  # while it is locked: a waiting process looks again
            with contextlib.suppress(OSError):  # not empty: the work has begun
                for folder in self.made:
                    folder.rmdir()
        self.forget()

    @contextlib.contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Let others have the output when what follows is refused, and leave no trace."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def forget(self) -> None:
        """Close the file and nothing more: in a forked child the lock stays its parent's."""
        file, self.file = self.file, None
        HELD.pop(str(self.path), None)
        if file is not None:
            file.close()

    def __del__(self):
        if not sys.is_finalizing():
            self.release()


def is_named(file, path: Path) -> bool:
    """Return whether `path` is still the name of the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def read_word(path: Path) -> dict:
    """Read what the holder of a lock wrote; {} if there is nothing to read yet."""
    try:
        word = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return word if isinstance(word, dict) else {}


def described(holder: dict) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host')}"


def launch_name() -> str:
    """Name the launch that this process belongs to, the same in all of its processes.

    Launches that run at the same time differ in the port of their group, or in the machine; a job
    that SLURM queued again differs from its own remains in the count of its restarts.
    """
    env = os.environ
    if world_size() == 1:
        return f"{socket.gethostname()}:{os.getpid()}"
    one_machine = env.get("LOCAL_WORLD_SIZE") == env["WORLD_SIZE"]
    names = [env.get(name, "") for name in LAUNCH_NAMES]
    return ":".join([socket.gethostname() if one_machine else "", *names])


@atexit.register
def release_all() -> None:
    for lock in list(HELD.values()):
        lock.release()


def forget_all() -> None:
    for lock in list(HELD.values()):
        lock.forget()


os.register_at_fork(after_in_child=forget_all)
