"""Ends of a command before its time: Ctrl-C, a scheduler's SIGTERM or SIGUSR1, a closed terminal.

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
STOPPING = signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP


class Stopped(BaseException):
    """A scheduler's signal or a closed terminal's, whose name `str` gives."""

    exit_code = EXIT_PREEMPTED


@contextmanager
def signals_kill() -> Iterator[None]:
    """Let the signals above and Ctrl-C end this process at once, as long as the block lasts.

    For waiting in libraries, where Python's handlers are not called: for processes of a launch that
    do not come, an hour. Nothing is lost. Signals that are ignored stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGINT)}
    handled = {number: handler for number, handler in before.items() if callable(handler)}
    for number in handled:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Raise `Stopped` on `STOPPING` signals, unless somebody else handles or ignores them."""
    owner = os.getpid()
    before = [number for number in STOPPING if signal.getsignal(number) == signal.SIG_DFL]
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
