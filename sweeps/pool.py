"""Working through the cells of a sweep on this machine, some at a time, with a live overview.

    run_cells(cells, PoolConfig(parallel=2)) -> exit code

May be killed at any moment and started again, also twice at once: a cell that another process
works on is left to it and looked at again later. Ctrl-C or SIGTERM asks running commands to save
and end; a second one kills them.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from runtime.command import EXIT_FAILED
from runtime.flags import require
from runtime.stopping import EXIT_PREEMPTED
from sweeps.cells import Cell, state
from sweeps.command_launch import Launch
from sweeps.overview import Overview
from sweeps.process import CellRun

POLL_SECONDS = 0.5
SECONDS_UNTIL_NEXT_LOOK = 5.0  # at cells that another process works on


@dataclass(frozen=True)
class PoolConfig:
    """Settings of a sweep that runs on this machine."""

    parallel: int = 1
    """cells at work at the same time"""
    processes_per_cell: int = 1
    """processes of each command, each with a GPU of its own if there are any: torchrun's
    --nproc_per_node"""
    retry_failed: bool = False
    """run cells again that failed before; without it they are only reported"""


def check_pool(c: PoolConfig, here: bool = True) -> None:
    """Raise `ValueError` for impossible numbers, judged by this machine if cells run `here`."""
    for name in ("parallel", "processes_per_cell"):
        require(c, name, getattr(c, name) >= 1, "at least 1")
    devices = gpus() if here else []
    if devices and c.processes_per_cell > len(devices):
        raise ValueError(
            f"--processes-per-cell {c.processes_per_cell}: each process takes a GPU, and there "
            f"are {len(devices)} here"
        )


def gpus() -> list[str]:
    """Return the names of the usable GPUs, as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def launches(c: PoolConfig) -> list[Launch]:
    """Return ways to start commands, one for each of the cells that work at the same time.

    GPUs are assigned in turn, so more cells than GPUs share them; cores are divided evenly.
    """
    devices, size = gpus(), c.processes_per_cell
    threads = max(1, cores() // (c.parallel * size))
    return [
        Launch(
            processes=size,
            devices=tuple(devices[(i * size + k) % len(devices)] for k in range(size))
            if devices
            else (),
            threads=threads,
        )
        for i in range(c.parallel)
    ]


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool:
    """A pool of places to run cells: holds the waiting cells and those at work.

    Args:
        ways: to start commands, one for each cell that works at the same time; on this machine
            unless given.
    """

    def __init__(self, cells: Sequence[Cell], c: PoolConfig, ways: Sequence[Launch] = ()):
        self.overview = Overview(cells, c.parallel)
        self.free = list(ways) or launches(c)
        self.runs: dict[CellRun, Launch] = {}
        self.waiting: deque[tuple[float, Cell]] = deque()  # and the time to look at it
        self.failed: list[Cell] = []
        self.stops = self.obeyed = 0  # signals that came, and those that were acted on
        for cell in cells:
            now = state(cell)
            if now == "failed" and not c.retry_failed:
                self.failed.append(cell)
            elif now != "finished":
                self.waiting.append((0.0, cell))
            if now in ("finished", "failed"):
                self.overview.set(cell, now, silent=now == "finished")

    def work(self) -> int:
        """Run until nothing waits; return the exit code."""
        try:
            with stop_signals(self._remember):
                self.overview.say(self.overview.status())
                while self.runs or (self.waiting and not self.stops):
                    if self.stops > self.obeyed:
                        self._stop()
                    self._start_some()
                    for run in list(self.runs):
                        if run.poll():
                            self._ended(run)
                    self.overview.refresh(list(self.runs))
                    time.sleep(POLL_SECONDS)
                if self.overview.changed:
                    self.overview.say(self.overview.status())
        finally:
            for run in self.runs:  # an error of our own: leave nothing behind
                run.stop()
            self.overview.close()
        if self.stops:
            return EXIT_PREEMPTED
        return EXIT_FAILED if self.failed else 0

    def _start_some(self) -> None:
        for _ in range(len(self.waiting)):
            if self.stops or not self.free:
                return
            when, cell = self.waiting.popleft()
            if time.monotonic() < when:
                self.waiting.append((when, cell))
                continue
            run, launch = CellRun(cell, self.free[0]), self.free[0]
            if run.outcome:
                self._came_to(run)
            else:
                self.free.pop(0)
                self.runs[run] = launch
                self.overview.set(cell, "running")

    def _ended(self, run: CellRun) -> None:
        self.free.append(self.runs.pop(run))
        self._came_to(run)

    def _came_to(self, run: CellRun) -> None:
        """Record the outcome of `run`."""
        if run.outcome == "busy":
            again = time.monotonic() + SECONDS_UNTIL_NEXT_LOOK
            self.waiting.append((again, run.cell))
        elif run.outcome == "failed":
            self.failed.append(run.cell)
        shown = "waiting" if run.outcome in (None, "stopped") else run.outcome
        self.overview.set(run.cell, shown, silent=shown == "waiting")

    def _remember(self) -> None:
        self.stops += 1  # a handler may interrupt anything, so the loop acts on it

    def _stop(self) -> None:
        self.obeyed = self.stops
        how = next(iter(self.runs.values()), self.free[:1] and self.free[0])
        what = how.when_stopped if how and self.stops == 1 else "killing"
        self.overview.say(f"stopping: {what}. The same command continues")
        for run in self.runs:
            run.stop()


@contextmanager
def stop_signals(stop) -> Iterator[None]:
    """Call `stop()` on Ctrl-C and SIGTERM, instead of ending at once."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_cells(cells: Sequence[Cell], c: PoolConfig, ways: Sequence[Launch] = ()) -> int:
    """Run all `cells` that are not finished, in the `ways` that `Pool` describes.

    Returns 0 when all are finished, 1 when some have failed, 75 when it was stopped: then the same
    call continues.
    """
    return Pool(cells, c, ways).work()
