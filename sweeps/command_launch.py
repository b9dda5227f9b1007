"""Starting a cell's commands: their words, their environment, and the process group they are in."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[1]
SECONDS_TO_SAVE = 300  # between asking a command to stop and killing it
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Launch:
    """A way to start the commands of a cell."""

    processes: int = 1
    """processes of each command, by torchrun if there are several"""
    devices: tuple[str, ...] = ()
    """CUDA_VISIBLE_DEVICES, which is not set if this is empty"""
    threads: int | None = None
    """OMP_NUM_THREADS, unless the user set it"""

    when_stopped: ClassVar = "commands save and end; once more to kill them"

    def argv(self, words: tuple[str, ...] | list[str]) -> list[str]:
        """Return the program and arguments that run a command's words."""
        words = list(words)
        if words[0] != "-m":
            words[0] = str(ROOT / words[0])
        if self.processes == 1:
            return [sys.executable, *words]
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        return [sys.executable, *launcher, f"--nproc_per_node={self.processes}", *words]

    def shown(self, words: tuple[str, ...] | list[str], start: Sequence[str] = ()) -> str:
        """Return a command as one would type it in the project's folder."""
        if self.processes > 1:
            start = start or ["torchrun", "--standalone", f"--nproc_per_node={self.processes}"]
        return shlex.join([*(start or ["python"]), *words])

    def environment(self) -> dict[str, str]:
        # torchrun's, of newer versions: so long a checkpoint may take after a signal
        variables = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SECONDS_TO_SAVE)}
        if self.threads:
            variables["OMP_NUM_THREADS"] = str(self.threads)
        variables |= os.environ  # what the user set holds
        if self.devices:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return variables | {"PYTHONPATH": os.pathsep.join(path)}  # for -m


def before_command() -> None:
    """Prepare a new process: it gets SIGTERM when the process that started it dies.

    It ignores SIGUSR2, by which submitit announces the end of a SLURM job: that is meant for the
    job's first process.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def signal_group(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return
