"""Ends of a command before its time: Ctrl-C, and a scheduler's SIGTERM or SIGUSR1.

Commands that lose nothing when they are killed end at once, by an exception. A training run has
more to do and handles these signals itself (runtime/signals.py).
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_INTERRUPTED = 130  # as shells count Ctrl-C
EXIT_PREEMPTED = 75  # "temporary failure, try again": the same command continues


class Stopped(BaseException):
    """A scheduler's signal, whose name `str` gives."""

    exit_code = EXIT_PREEMPTED


@contextmanager
def signals_raise() -> Iterator[None]:
    """Raise `Stopped` on SIGTERM or SIGUSR1, unless somebody else handles them."""
    owner = os.getpid()
    before = [n for n in (signal.SIGTERM, signal.SIGUSR1) if signal.getsignal(n) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        before = []

    def stop(number: int, frame) -> None:
        if os.getpid() != owner:  # a process that was forked since
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # schedulers repeat it while the program ends
        raise Stopped(signal.Signals(number).name)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in before:
            if signal.getsignal(number) == stop:  # a run that began meanwhile has its own
                signal.signal(number, signal.SIG_DFL)
