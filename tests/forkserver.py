"""Commands of the project as real processes that start at once: forked from one that imported all.

Importing torch and its company takes a command some seconds and its work often a fraction of one.
A server process imports everything and then forks for each launch, so a launched command is a
process of its own, with its own directory, environment, signals and exit code:

    with ForkServer() as server:
        process = server.start(["train.py", "--model", "SiT-Ti/2", ...], folder=tmp_path)
        process.wait() == 0

The server runs no operation of torch, hence has no threads that a fork would lose.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = """
    accelerate datasets diffusers diffusers.models.autoencoders.autoencoder_kl matplotlib.pyplot
    safetensors.torch scipy.linalg sklearn.datasets sklearn.linear_model timm
    torch.distributed.fsdp torch.utils.tensorboard torch_fidelity.feature_extractor_inceptionv3
    torchdiffeq torchvision.datasets tqdm tyro
    train sample_ddp evaluation.evaluator scripts.cache_latents scripts.cache_features
    scripts.convert_checkpoint scripts.suggest_pair scripts.sweep_layer_pairs scripts.guidance_sweep
"""  # what commands import, so that a forked one finds it imported
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}


class ForkedProcess:
    """A launched command; `stdout` and `stderr` are files, read when they are asked for."""

    def __init__(self, connection: socket.socket, folder: Path):
        self.connection, self.folder = connection, folder
        (self.pid,) = struct.unpack("i", connection.recv(4))
        self.returncode: int | None = None
        self.peak_memory: int | None = None
        """bytes, once it has ended"""
        self.processor_time: float | None = None
        """seconds of it and the processes that it waited for, once it has ended"""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._receive(0)

    def wait(self, timeout: float = 300) -> int:
        """Wait for the exit code; `TimeoutError` after `timeout` seconds."""
        code = self._receive(timeout)
        if code is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL it and everything that it started."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def _receive(self, timeout: float) -> int | None:
        if self.returncode is None:
            self.connection.settimeout(timeout)
            try:
                status, kilobytes, seconds = struct.unpack("iqd", self.connection.recv(24))
            except (TimeoutError, BlockingIOError):
                return None
            self.returncode = os.waitstatus_to_exitcode(status)
            self.peak_memory = kilobytes * 1024
            self.processor_time = seconds
            self.connection.close()
        return self.returncode


class ForkServer:
    """A process that has imported everything and forks for each launch."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="forkserver-"))
        self.address = str(self.folder / "socket")
        self.launches = 0
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.address],
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError("the fork server did not start")

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
            environment: variables to set besides the server's; None as a value removes one.
            memory: bytes of address space beyond what the imports take; more raises MemoryError.
            privileges: False takes root's right to write where permissions forbid it.
        """
        self.launches += 1
        output = self.folder / str(self.launches)
        output.mkdir()
        request = dict(
            words=[str(word) for word in words],
            folder=str(folder),
            environment=environment or {},
            memory=memory,
            privileges=privileges,
            output=str(output),
        )
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        connection.sendall(json.dumps(request).encode() + b"\n")
        return ForkedProcess(connection, output)

    def start_ranks(self, words: list, processes: int, **settings) -> list[ForkedProcess]:
        """Start a command as torchrun does on one machine, one process for each rank."""
        environment = settings.pop("environment", None) or {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(processes))
        group |= dict(LOCAL_WORLD_SIZE=str(processes), TORCHELASTIC_RUN_ID=f"forked{port}")
        return [
            self.start(
                words,
                environment=environment | group | dict(RANK=str(rank), LOCAL_RANK=str(rank)),
                **settings,
            )
            for rank in range(processes)
        ]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.terminate()
        self.process.wait()

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def serve(address: str) -> None:
    """Import everything, then fork for each connection until the client goes away."""
    import importlib

    sys.path[:0] = [str(ROOT)]
    for module in MODULES.split():
        importlib.import_module(module)
    warm_up()
    gc.collect()
    gc.freeze()  # or a collection in a fork would copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for commands are not waited for
    parent = os.getppid()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    listener.settimeout(1)
    print("ready", flush=True)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.setblocking(True)
        if os.fork() == 0:
            listener.close()
            watch(connection)
        connection.close()


def warm_up() -> None:
    """Parse a command line once, which imports more and fills caches."""
    import tyro

    from training.config import TrainConfig

    tyro.cli(TrainConfig, args=[])


def watch(connection: socket.socket) -> None:
    """Fork the command, tell its number, wait for it and tell how it ended."""
    request = json.loads(connection.makefile().readline())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        connection.close()
        run(**request)
    connection.sendall(struct.pack("i", pid))
    _, status, usage = os.wait4(pid, 0)
    with contextlib.suppress(OSError):  # nobody listens any more
        seconds = usage.ru_utime + usage.ru_stime
        connection.sendall(struct.pack("iqd", status, usage.ru_maxrss, seconds))
    os._exit(0)


def run(
    words: list[str],
    folder: str,
    environment: dict,
    memory: int | None,
    privileges: bool,
    output: str,
) -> None:
    """Become the command; never returns."""
    os.setsid()
    os.chdir(folder)
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for number, name, mode in (
        (0, os.devnull, os.O_RDONLY),
        (1, f"{output}/stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, f"{output}/stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(name, mode), number)
    if memory:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if not privileges:
        drop_capabilities()
    os._exit(interpret(words))


def drop_capabilities() -> None:
    """Give up every capability of root, as a plain user has none (capset(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, this_process = 0x20080522, 0
    header = struct.pack("Ii", version_3, this_process)
    if libc.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def interpret(words: list[str]) -> int:
    """Run the command as the interpreter would, up to its exit code."""
    import atexit
    import runpy
    import threading
    import traceback

    code = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / words[0]), *words[1:]]
            sys.path[0] = str(Path(sys.argv[0]).parent)
            sys.path.insert(1, str(ROOT))
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        if exit.code is not None and not isinstance(exit.code, int):
            print(exit.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # as the interpreter does: waits for threads that are not daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code & 0xFF


if __name__ == "__main__":
    serve(sys.argv[1])
