"""Commands of the project as processes that start at once, with their output in files.

    process = fork_server.start(["train.py", "--model", "SiT-Ti/2", ...], folder=tmp_path)
    process.wait() == 0

The processes are those of forking/: own directory, environment, signals and exit code.
"""

import json
import os
import resource
import select
import signal
import socket
import tempfile
from pathlib import Path

import psutil
from forking import ENVIRONMENT, family, forked_python
from forking.client import answer, ask, ignored

ROOT = Path(__file__).resolve().parents[1]


class ForkedProcess:
    """A launched command; `stdout` and `stderr` are files, read when they are asked for."""

    def __init__(self, words: list, folder, environment: dict, limits: dict, output: Path):
        self.folder, self.code = output, None
        program = list(words) if words[0] == "-m" else [str(ROOT / words[0]), *words[1:]]
        given = ENVIRONMENT | {"PYTHONPATH": str(ROOT)} | environment
        request = {
            "limits": limits,
            "words": [str(word) for word in program],
            "environment": {name: value for name, value in given.items() if value is not None},
            "folder": str(folder),
            "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
            "ignored": ignored(),
        }
        server = str(Path(forked_python()).parent)
        with (
            open(os.devnull) as stdin,
            open(output / "stdout", "w") as stdout,
            open(output / "stderr", "w") as stderr,
        ):
            files = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
            self.connection = ask(server, request, files)
        self.worker = answer(self.connection)

    @property
    def pid(self) -> int:
        """Its number, for as long as it runs."""
        if self.poll() is not None:
            raise ProcessLookupError(f"it has ended: {self.stderr[-500:]}")
        return self.worker

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
        try:
            return self.wait(0)
        except TimeoutError:
            return None

    def wait(self, timeout: float = 300) -> int:
        """Wait for the exit code; `TimeoutError` after `timeout` seconds."""
        if self.code is None:
            if not select.select([self.connection], [], [], timeout)[0]:
                raise TimeoutError(f"process {self.worker} runs after {timeout} s")
            self.code = answer(self.connection)
            self.connection.close()
        return self.code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.worker, number)

    def kill(self) -> None:
        """SIGKILL it and everything that it started."""
        if self.poll() is None:
            members = family(self.worker)
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
