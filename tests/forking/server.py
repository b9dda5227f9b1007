"""A process that has imported torch and this project once, and forks itself for each program asked.

Importing takes a program three to five seconds of a processor, forking 0.03 s. The forked processes
are real ones: own memory, own signals, own exit code. The server has one thread and computes
nothing, so that a fork of it is in the state of an interpreter that has just imported these
modules. It ends with the tests that started it, given by their process number, or without FOLDER.

    server.py FOLDER PID     FOLDER/socket is for client.py, FOLDER/N says which process works
                             for the client N
"""

import atexit
import contextlib
import ctypes
import importlib
import io
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
import types
from pathlib import Path

import psutil
import warming

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = [
    "torch", "torch.distributed.run", "torch.distributed.fsdp", "torch.utils.tensorboard",
    "accelerate", "timm", "torchvision.transforms", "torchdiffeq", "safetensors.torch",
    "matplotlib.pyplot", "scipy.linalg", "PIL.Image", "tqdm", "tyro", "tyro.extras",
    "matplotlib.backends.backend_agg", "PIL.features",
    "tensorboard.plugins.hparams.metadata", "encodings.cp437",
    "diffusers.models.autoencoders.autoencoder_kl", "datasets", "sklearn.datasets",
]  # fmt: skip
NEWER = ["torch.utils.serialization.config"]  # which torch 2.6 does not have
PROJECT = [  # and what they import
    "training.loop", "sampling.run", "sampling.sample_file", "evaluation.scoring",
    "evaluation.make_reference", "evaluation.blocks.blocks_command",
    "evaluation.blocks.linear_experiment", "evaluation.blocks.alignment_experiment",
    "evaluation.blocks.removal_experiment", "evaluation.blocks.segmentation_experiment",
    "evaluation.blocks.pair_report", "sweeps.pair_study", "sweeps.guidance_study",
    "sweeps.paper_study", "sweeps.run_page", "sweeps.paper_inputs", "evaluation.results",
    "data.latent_writer", "data.feature_cache", "data.readable_images", "sampling.picture",
    "models.safetensors_file",
]  # fmt: skip
READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "OMP_", "MKL_", "MPL", "TORCH_HOME", "PYTHONHASHSEED")


class Server:
    """Forks on request; `run` returns in each forked process, with what it is to do."""

    def __init__(self, folder: Path, owner: int):
        self.folder, self.owner = folder, owner
        self.children: dict[int, socket.socket] = {}  # process number: its client
        self.clients: dict[int, dict] = {}  # process number: what its client asked for
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.woken, waker = socket.socketpair()
        for end in (self.woken, waker):
            end.setblocking(False)
        self.waker = waker  # SIGCHLD makes `woken` readable
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno())
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.woken, selectors.EVENT_READ)
        self.listener.bind(str(folder / "socket"))
        self.listener.listen(64)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def run(self) -> dict:
        while psutil.pid_exists(self.owner) and self.folder.exists():
            for key, _ in self.selector.select(timeout=1):
                if key.fileobj is self.listener:
                    request = self.fork(self.listener.accept()[0])
                    if request is not None:
                        return request
                elif key.fileobj is self.woken:
                    self.woken.recv(4096)
                    self.reap()
                else:
                    self.hear(key.fileobj, key.data)
        for pid in self.children:
            kill_family(pid)
        os._exit(0)

    def fork(self, client: socket.socket) -> dict | None:
        """A new process for this client; returns the request there and None here."""
        client.settimeout(60)
        head, files, _, _ = socket.recv_fds(client, 4, 3)
        data = b""
        while len(data) < int.from_bytes(head, "big"):
            data += client.recv(1 << 16)
        request = json.loads(data)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            if "client" in request:  # before anything that this process does can be seen
                (self.folder / str(request["client"])).write_text(str(os.getpid()))
            with contextlib.suppress(OSError):  # the client was killed, which will be heard
                client.sendall(b"%d\n" % os.getpid())
            for number, file in enumerate(files):
                os.dup2(file, number)
            self.close(client, *files)
            return request
        for file in files:
            os.close(file)
        self.children[pid], self.clients[pid] = client, request
        self.selector.register(client, selectors.EVENT_READ, pid)
        return None

    def close(self, client: socket.socket, *files: int) -> None:
        """Give up what the server holds open, in the forked process; libraries keep theirs."""
        self.selector.close()
        for mine in (self.listener, self.woken, self.waker, client, *self.children.values()):
            mine.close()
        for file in files:
            os.close(file)

    def hear(self, client: socket.socket, pid: int) -> None:
        """Signals for the process, a byte each; the end of the client is its end."""
        try:
            signals = client.recv(64)
        except OSError:
            signals = b""
        if pid not in self.children:
            return
        for number in signals:
            os.kill(pid, number)
        if not signals:
            self.selector.unregister(client)
            kill_family(pid)

    def reap(self) -> None:
        """Tell the clients of processes that have ended how they did."""
        while self.children:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                return
            client = self.children.pop(pid)
            if client in {key.fileobj for key in self.selector.get_map().values()}:
                self.selector.unregister(client)
            request = self.clients.pop(pid)
            if "client" in request:
                (self.folder / str(request["client"])).unlink(missing_ok=True)
            if path := request["limits"].get("usage"):
                seconds = usage.ru_utime + usage.ru_stime
                taken = dict(kilobytes=usage.ru_maxrss, seconds=seconds)
                Path(path).write_text(json.dumps(taken))
            with contextlib.suppress(OSError):  # it was killed
                client.send(b"%d\n" % os.waitstatus_to_exitcode(status))
            client.close()


def kill_family(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def become(request: dict, own_path: list[str]) -> None:
    """Take over what a new interpreter would have from its environment."""
    os.setsid()
    os.chdir(request["folder"])
    asked, here = request["environment"], dict(os.environ)
    for name in asked.keys() | here.keys():
        if name.startswith(READ_AT_IMPORT) and asked.get(name) != here.get(name):
            sys.exit(f"{name} is read while importing: start a real process for another value")
    os.environ.clear()
    os.environ.update(asked)
    for number in range(1, signal.NSIG):
        if number in request["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        elif number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    limits = request["limits"]
    if limits.get("memory"):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + limits["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if not limits.get("privileges", True):
        drop_capabilities()
    resource.setrlimit(resource.RLIMIT_FSIZE, tuple(request["file_size"]))
    sys.stdin = os.fdopen(0, closefd=False)
    as_here = dict(encoding=sys.stdout.encoding, errors=sys.stdout.errors)  # "utf-8", not "UTF-8"
    sys.stdout = os.fdopen(1, "w", 1 if os.isatty(1) else -1, closefd=False, **as_here)
    as_here["errors"] = "backslashreplace"
    sys.stderr = os.fdopen(2, "w", 1, closefd=False, **as_here)
    sys.path[:] = [*filter(None, asked.get("PYTHONPATH", "").split(os.pathsep)), *own_path]
    sys.executable = str(Path(sys.argv[1]) / "python")  # what it starts is forked as well
    import numpy

    numpy.random.seed()


def drop_capabilities() -> None:
    """Give up every capability of root, as a plain user has none (capset(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, this_process = 0x20080522, 0
    if libc.capset(struct.pack("Ii", version_3, this_process), bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def execute(words: list[str]) -> int:
    """Run a program as the interpreter would; returns its exit code."""
    if words[0] == "-u":
        raw = os.fdopen(1, "wb", buffering=0, closefd=False)
        sys.stdout = io.TextIOWrapper(raw, encoding=sys.stdout.encoding, write_through=True)
        words = words[1:]
    try:
        if words[0] == "-m":
            sys.argv[:] = words[1:]
            sys.path.insert(0, os.getcwd())
            sys.modules.pop(f"{words[1]}.__main__", None)  # sweeps import it, of which runpy warns
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv[:] = ["-c", *words[2:]]
            sys.path.insert(0, "")
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), main.__dict__)
        else:
            sys.argv[:] = words
            sys.path.insert(0, str(Path(words[0]).resolve().parent))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    folder, owner = Path(sys.argv[1]), int(sys.argv[2])
    own_path = [entry for entry in sys.path[1:] if Path(entry).resolve() != ROOT]
    sys.path[0] = str(ROOT)
    reserved = warming.reserve()  # for as long as this process lives
    try:
        for name in [*LIBRARIES, *PROJECT]:
            importlib.import_module(name)
        for name in NEWER:
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
        warming.warm_up(ROOT)
        warming.settle()
        if (threads := len(psutil.Process().threads())) > 1:
            raise RuntimeError(f"the server has {threads} threads: forking it is not safe")
    except BaseException:
        (folder / "failed").touch()
        raise
    request = Server(folder, owner).run()
    assert reserved
    # from here on in a forked process
    try:
        become(request, own_path)
        code = execute(request["words"])
    except SystemExit as refused:
        print(refused, file=sys.stderr)
        code = 97
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    os._exit(code)


if __name__ == "__main__":
    main()
