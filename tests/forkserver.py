"""Commands of the project as processes that start at once, with their output in files.

    process = fork_server.start(["train.py", "--model", "SiT-Ti/2", ...], folder=tmp_path)
    process.wait() == 0

The processes are those of forking/: own directory, environment, signals and exit code.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from forking import ENVIRONMENT, family, forked, forked_python

ROOT = Path(__file__).resolve().parents[1]


class ForkedProcess:
    """A launched command; `stdout` and `stderr` are files, read when they are asked for."""

    def __init__(self, words: list, folder, environment: dict, limits: dict, output: Path):
        self.folder = output
        program = words if words[0] == "-m" else [str(ROOT / words[0]), *words[1:]]
        settings = {"PYTHONPATH": str(ROOT), "FORKED_LIMITS": json.dumps(limits)}
        given = ENVIRONMENT | environment | settings
        with open(output / "stdout", "w") as stdout, open(output / "stderr", "w") as stderr:
            self.process = subprocess.Popen(
                [forked_python(), *map(str, program)],
                cwd=folder,
                env={name: value for name, value in given.items() if value is not None},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    @property
    def pid(self) -> int:
        """The number of the process that works; for as long as it does."""
        while self.poll() is None:
            try:
                return forked(self.process.pid).pid
            except (FileNotFoundError, ValueError):
                time.sleep(0.005)
        raise ProcessLookupError(f"it has ended: {self.stderr[-500:]}")

    @property
    def returncode(self) -> int | None:
        return self.poll()

    @property
    def peak_memory(self) -> int | None:
        """Bytes, once it has ended."""
        return self._usage("kilobytes", 1024)

    @property
    def processor_time(self) -> float | None:
        """Seconds of it and of the processes that it waited for, once it has ended."""
        return self._usage("seconds")

    def _usage(self, name: str, unit: int = 1):
        path = self.folder / "usage"
        return json.loads(path.read_text())[name] * unit if path.exists() else None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def wait(self, timeout: float = 300) -> int:
        """Wait for the exit code; `TimeoutError` after `timeout` seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.process.pid} runs after {timeout} s") from None

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it and everything that it started."""
        if self.poll() is None:
            members = family(self.process.pid)
            for member in members:
                try:
                    os.kill(member.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            psutil.wait_procs(members[1:], timeout=30)

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")


class ForkServer:
    """Starts the project's commands as processes, without waiting for their imports."""

    def __init__(self, folder: Path):
        self.folder = folder

    def start(
        self,
        words: list,
        folder: Path | str = ROOT,
        environment: dict[str, str] | None = None,
        memory: int | None = None,
        privileges: bool = True,
    ) -> ForkedProcess:
        """Start a command: a script of the project and its arguments, or "-m", a module, ....

        Args:
            folder: where it runs.
            environment: variables to set besides the session's; None as a value removes one.
            memory: bytes of address space beyond what the imports take; more raises MemoryError.
            privileges: False takes root's right to write where permissions forbid it.
        """
        output = Path(tempfile.mkdtemp(dir=self.folder))
        limits = dict(memory=memory, privileges=privileges, usage=str(output / "usage"))
        return ForkedProcess(words, folder, environment or {}, limits, output)

    def start_ranks(self, words: list, processes: int, **settings) -> list[ForkedProcess]:
        """Start a command as torchrun does on one machine, one process for each rank.

        Args:
            words: of all ranks, or a list for each of them.
        """
        environment = settings.pop("environment", None) or {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(processes))
        group |= dict(LOCAL_WORLD_SIZE=str(processes), TORCHELASTIC_RUN_ID=f"forked{port}")
        each = words if isinstance(words[0], list) else [words] * processes
        return [
            self.start(
                own,
                environment=group | dict(RANK=str(rank), LOCAL_RANK=str(rank)) | environment,
                **settings,
            )
            for rank, own in enumerate(each)
        ]
