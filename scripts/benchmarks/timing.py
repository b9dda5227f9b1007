"""Timing on a machine that others use too: alternating runs, medians, ratios of neighbours."""

import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# On a GPU as many runs are timed together: training does not wait for it between steps.
IN_A_ROW = 3 if DEVICE.type == "cuda" else 1
WARMUP_SECONDS = 0.5  # in which an idle GPU reaches its clock and its power
FAILED = "failed"


def seconds(work: Callable, clock: str = "wall", runs: int = 1) -> float:
    """Return the time of work() and everything it started on the device, by one of `CLOCKS`.

    Args:
        runs: mean over as many, one right after the other.
    """
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = CLOCKS[clock]()
    for _ in range(runs):
        work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return (CLOCKS[clock]() - start) / runs


class Deadline:
    """A moment after which nothing new is begun.

    Args:
        seconds: from now; None for never.
    """

    def __init__(self, seconds: float | None = None):
        self.end = None if seconds is None else time.monotonic() + seconds

    def passed(self) -> bool:
        return self.end is not None and time.monotonic() > self.end


def attempt(work: Callable[[], list[dict]], deadline: Deadline) -> list[dict]:
    """Return the rows of a cell, or one that says why it has none: no time, no memory, an error.

    An error leaves the other cells; its traceback is shown.
    """
    if deadline.passed():
        return [{"note": "not measured: no time left"}]
    torch.compiler.reset()
    gc.collect()  # what the cell before this one held
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
    try:
        return work()
    except torch.OutOfMemoryError:
        return [{"note": "not measured: it does not fit in this memory"}]
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        words = " ".join(str(error).split()).replace("|", "/")
        return [{"note": f"{FAILED}: {type(error).__name__}: {words[:120]}"}]


def compiled_or_not(c) -> list[bool]:
    """Return what --compiled asks for, compiled first."""
    return {"no": [False], "yes": [True], "both": [True, False]}[c.compiled]


Name = TypeVar("Name", bound=Hashable)


def alternate(
    works: dict[Name, Callable], repeats: int, warmup: int = 2, clock: str = "wall", runs: int = 1
) -> dict[Name, list[float]]:
    """Time each work `repeats` times in turn, after `warmup` rounds; return {name: seconds}.

    Args:
        runs: as in `seconds`.
    """
    times: dict[Name, list[float]] = {name: [] for name in works}
    for i in range(warmup + repeats):
        for name, work in works.items():
            if i < warmup:
                work()
            else:
                times[name].append(seconds(work, clock, runs))
    return times


def ratio(times: list[float], base: list[float]) -> float:
    """Return the median ratio of neighbouring runs, which a drifting machine does not change."""
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


def set_precision(precision: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def autocast(precision: str) -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16")


def matmul_rate(precision: str, n: int, repeats: int = 7, clock: str = "wall") -> float:
    """Return the median FLOP/s of a square matrix product."""
    set_precision(precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    a @ b
    end = time.perf_counter() + (WARMUP_SECONDS if DEVICE.type == "cuda" else 0)
    while time.perf_counter() < end:
        seconds(lambda: a @ b, runs=IN_A_ROW)
    times = [seconds(lambda: a @ b, clock, IN_A_ROW) for _ in range(repeats)]
    return 2 * n**3 / statistics.median(times)


def native_precisions(precisions: tuple[str, ...]) -> list[str]:
    """Return those that the device does not merely emulate, and say which it does."""
    small = {precision: matmul_rate(precision, 256) for precision in {*precisions, "fp32"}}
    native = [p for p in precisions if small[p] > small["fp32"] / 2]
    for precision in set(precisions) - set(native):
        times = small["fp32"] / small[precision]
        print(f"{precision}: left out, emulated on this device ({times:.0f} x slower than fp32)")
    return native


def matmul_peaks(precisions: Iterable[str], clock: str = "wall") -> dict[str, float]:
    """Return {precision: FLOP/s of large matrix products}."""
    n = 8192 if DEVICE.type == "cuda" else 3072
    return {precision: matmul_rate(precision, n, clock=clock) for precision in precisions}
