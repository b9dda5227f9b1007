"""Checkpoints written beside the training: a copy in host memory, then a thread that writes it.

A step waits for the copy and for nothing else. At most one checkpoint is on its way to the disk:
the next one waits for it, but the last one of a run that was told to stop does not (`hurry`). An
error of the thread ends the run at its next step, as if it had been raised there.
"""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch

Write = Callable[[Path, dict, Event], None]


class Cancelled(Exception):
    """Raised by a write that a later checkpoint has overtaken; it leaves no file."""


class CheckpointWriter:
    """Write checkpoints one after the other, on a thread of its own.

    Args:
        write: called as write(path, state, cancelled) on the thread; makes the whole file appear at
            `path` or none of it, and ends early with `Cancelled` once `cancelled` is set.
    """

    def __init__(self, write: Write):
        self.write = write
        self.thread: Thread | None = None
        self.error: BaseException | None = None
        self.cancelled = Event()
        self.seconds = 0.0
        """how long the last whole write took, its copy included"""

    def submit(self, path: Path, state: dict, hurry: bool = False) -> None:
        """Copy `state` and begin to write it to `path`.

        Args:
            hurry: give up a checkpoint that is still being written instead of waiting for it.

        Raises what the write before this one raised.
        """
        start = time.monotonic()
        if hurry:
            self.cancelled.set()
        self.wait()
        self.cancelled = Event()
        copy = host_copy(state)
        given = path, copy, self.cancelled, start
        # not a daemon: the interpreter waits for it, however the run ends
        self.thread = Thread(target=self._run, args=given, name=f"writes {path.name}")
        self.thread.start()

    def check(self) -> None:
        """Raise the error of a write that failed; never waits."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def wait(self) -> None:
        """Wait until nothing is on its way; raises the error of a write that failed."""
        if self.thread:
            self.thread.join()
            self.thread = None
        self.check()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        """Wait for the last write, however the run ends; its error only if there is no other."""
        if self.thread:
            self.thread.join()
            self.thread = None
        if kind is None:
            self.check()

    def _run(self, path: Path, state: dict, cancelled: Event, start: float) -> None:
        try:
            self.write(path, state, cancelled)
            self.seconds = time.monotonic() - start
        except Cancelled:
            pass
        except BaseException as error:  # re-raised where the training is
            self.error = error


def host_copy(state):
    """Copy every tensor in nested dicts, lists and tuples to host memory, sharing none with it.

    `cpu_offload` of torch's state dicts copies from a GPU and returns the live weights on the CPU,
    which the next step would change under the writer: those are copied here. Tensors that share a
    storage in `state` do so in the copy, so that the file stays as small.
    """
    copies: dict[int, torch.Tensor] = {}

    def copy(value):
        if isinstance(value, torch.Tensor):
            if id(value) not in copies:
                copies[id(value)] = value.detach().to("cpu", copy=True)
            return copies[id(value)]
        if isinstance(value, dict):
            return type(value)((key, copy(item)) for key, item in value.items())
        if isinstance(value, list | tuple):
            return type(value)(copy(item) for item in value)
        return value

    return copy(state)


def torch_save(state: dict, file, cancelled: Event) -> None:
    """`torch.save` to a binary file that ends with `Cancelled` soon after `cancelled` is set."""
    try:
        writer: Any = _CancellableFile(file, cancelled)  # torch asks for no more than write, flush
        torch.save(state, writer)
    except RuntimeError:  # torch finishes the archive, which fails too, and raises that instead
        if cancelled.is_set():
            raise Cancelled from None
        raise


class _CancellableFile:
    def __init__(self, file, cancelled: Event):
        self.file, self.cancelled = file, cancelled

    def write(self, data) -> int:
        if self.cancelled.is_set():
            raise Cancelled
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
