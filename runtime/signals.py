"""Stopping in good order: when the scheduler says so, before time is up, and on Ctrl-C.

SLURM announces a preemption by SIGTERM, or by the signal that `--signal=USR1@120` asks for. A
terminal that is closed, as by a lost connection, sends SIGHUP. The end of a job's time is known
before, so that the run stops ahead of it. In each case it finishes its step, writes a checkpoint
and ends with exit code 75 ("temporary failure, try again"); the same command with --resume latest
continues.
"""

import os
import signal
import sys
import threading
import time
from datetime import datetime
from multiprocessing import AuthenticationError

import torch

from runtime.command import program_name
from runtime.job_time import job_end
from runtime.launch import is_first_process
from runtime.stopping import STOPPING
from runtime.streams import write_bare

SIGNALS = (*STOPPING, signal.SIGINT)
NAMES: dict[int, str] = {signal.SIGINT: "Ctrl-C"}
STEPS_BETWEEN_CHECKS = 8  # with several processes, which must agree and so ask each other
MARGIN_SECONDS = 30.0  # kept free at the end of a job's time, besides what saving takes
BYTES_PER_SECOND = 100e6  # assumed of a disk, until a checkpoint has been written
FORWARDING_SECONDS = 5.0  # within these torchrun repeats a signal that processes already got


class StopRequest:
    """Remembers that a signal came or that time is up, and lets the processes agree on it.

    Args:
        accelerator: of the process group.
        checkpoint_bytes: size of a checkpoint, for how long the first one may take.
    """

    def __init__(self, accelerator, checkpoint_bytes: int = 0):
        self.accelerator = accelerator
        self.received: signal.Signals | None = None
        self.received_at = 0.0
        self.end = job_end() if accelerator.is_main_process else None
        self.out_of_time = False
        self.checkpoint_seconds = checkpoint_bytes / BYTES_PER_SECOND
        self.looked, self.between_looks = time.monotonic(), 0.0
        self.answer: torch.Tensor | None = None  # on its way to the CPU
        self.arrival: torch.cuda.Event | None = None
        for number in SIGNALS:
            if not ignored(number):
                signal.signal(number, self._remember)

    def agreed(self, step: int) -> bool:
        """Return whether any process has a reason.

        Several processes ask each other at every 8th step (a collective) and hear the answer at the
        next one: a GPU then has the work of that step, and does not stand still until it is read.
        """
        if self.accelerator.num_processes == 1:
            self._look_at_time()
            return self.requested
        if self.answer is not None:
            return self._hear()
        if step % STEPS_BETWEEN_CHECKS == 0:
            self._look_at_time()
            self._ask()
        return False

    def _ask(self) -> None:
        device = self.accelerator.device
        flag = torch.full((), float(self.requested), device=device)
        self.answer = self.accelerator.reduce(flag, "sum").to("cpu", non_blocking=True)
        if device.type == "cuda":
            self.arrival = torch.cuda.Event()
            self.arrival.record()

    def _hear(self) -> bool:
        answer, self.answer = self.answer, None
        assert answer is not None  # it was asked for
        if self.arrival is not None:
            self.arrival.synchronize()
        return answer.item() > 0

    @property
    def requested(self) -> bool:
        return self.received is not None or self.out_of_time

    @property
    def reason(self) -> str:
        """The reason why the processes agreed to stop, as the first process knows it."""
        if self.received:
            return NAMES.get(self.received, self.received.name)
        if self.out_of_time and self.end is not None:
            return f"the end of the job's time at {datetime.fromtimestamp(self.end):%H:%M:%S}"
        return "a signal to another process"

    @property
    def margin(self) -> float:
        """Seconds before the end of the job's time at which to stop."""
        alone = self.accelerator.num_processes == 1
        until_heard = 0 if alone else self.between_looks / STEPS_BETWEEN_CHECKS
        return MARGIN_SECONDS + 2 * self.checkpoint_seconds + self.between_looks + until_heard

    def checkpoint_took(self, seconds: float) -> None:
        """Learn how long the last checkpoint took, on the process that writes."""
        self.checkpoint_seconds = seconds

    def _look_at_time(self) -> None:
        now = time.monotonic()
        self.between_looks, self.looked = now - self.looked, now
        if self.end is None or time.time() < self.end - self.margin or self.out_of_time:
            return
        self.end = job_end(ask=True) or self.end  # the job's time may have been extended
        self.out_of_time = time.time() >= self.end - self.margin

    def _remember(self, number: int, frame) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self.received_at = signal.Signals(number), now
            if is_first_process():
                say(
                    f"{self.reason}: the run finishes this step, writes a checkpoint and ends; "
                    f"once more ends it at once"
                )
        elif self._insists(number, now):
            if is_first_process():
                say(f"{NAMES.get(number, signal.Signals(number).name)} again: ended at once")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _insists(self, number: int, now: float) -> bool:
        """Return whether somebody asks again, not a launcher or a scheduler that repeats."""
        if number in (signal.SIGUSR1, signal.SIGHUP):
            return False
        if number == signal.SIGTERM and "SLURM_JOB_ID" in os.environ:
            return False  # at the end of its grace time it sends SIGKILL
        passed_on = "TORCHELASTIC_RUN_ID" in os.environ
        return not passed_on or now - self.received_at > FORWARDING_SECONDS


def ignored(number: int) -> bool:
    """Return whether a signal stays without effect: SIGHUP under nohup.

    Not under torchrun, which handles it all the same and then ends its processes.
    """
    if number != signal.SIGHUP or "TORCHELASTIC_RUN_ID" in os.environ:
        return False
    return signal.getsignal(number) == signal.SIG_IGN


def say(text: str) -> None:
    """Write a line from a signal handler, which must not use what it may have interrupted."""
    write_bare(f"\n{program_name()}: {text}")


def obey_parent_only(worker: int) -> None:
    """Let a data loading worker outlive a signal to the whole job: the run ends it."""
    ignore_lost_connections()
    if not hasattr(signal, "sigwaitinfo"):  # macOS, which has no such schedulers either
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def ignore_lost_connections() -> None:
    """Print no traceback where a run ends while this process hands a batch over to it.

    The thread that does so calls `sys.excepthook` itself.
    """
    before = sys.excepthook

    def hook(kind, error, trace):
        if not issubclass(kind, EOFError | ConnectionError | AuthenticationError):
            before(kind, error, trace)

    sys.excepthook = hook


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != parent:
        pass
    os._exit(0)  # otherwise a run that ends by an error would wait for its workers for ever
