"""Standard output and error that may be lost: to a closed terminal, a dead reader, a full disk.

What a command makes is in its files, what it prints tells of it. So a line that cannot be written
ends no work: it is lost, and the next one is tried.
"""

import contextlib
import errno
import io
import os
import sys

STDOUT, STDERR = 1, 2


class LossyFile(io.FileIO):
    """A file that takes what cannot be written for written.

    Args:
        number: of a file that is open, and stays so.
        program: who the warning about it is from.
    """

    def __init__(self, number: int, program: str):
        super().__init__(number, "w", closefd=False)
        self.program, self.told = program, False

    def write(self, data, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # without a word to `| head`, whose reader has what it wanted
            if self.fileno() == STDOUT and error.errno != errno.EPIPE and not self.told:
                self.told = True
                write_bare(
                    f"{self.program}: warning: standard output cannot be written "
                    f"({error.strerror}): its lines are lost, the work goes on"
                )
            return len(data)


def write_bare(text: str) -> None:
    """Write a line to standard error without Python's streams, if that can be done."""
    with contextlib.suppress(OSError):
        os.write(STDERR, f"{text}\n".encode(errors="replace"))


def make_streams_lossy(program: str) -> None:
    """Let this process, of this program, print to standard output and error as far as that goes.

    Streams that somebody has put in their place, as tests do, stay.
    """
    occupy_closed()
    for number, name in ((STDOUT, "stdout"), (STDERR, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when this process began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end
            continue
        if not is_usual(stream, number):
            continue
        with contextlib.suppress(OSError):
            stream.flush()
        lossy = io.TextIOWrapper(
            io.BufferedWriter(LossyFile(number, program)),
            encoding=stream.encoding,
            errors="backslashreplace",  # where the locale, or PYTHONIOENCODING, has no such letter
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, lossy)


def is_usual(stream, number: int) -> bool:
    """Return whether it is Python's own stream to this file, not lossy yet."""
    try:
        mine = type(stream) is io.TextIOWrapper and stream.fileno() == number
    except (OSError, ValueError):
        return False
    return mine and not isinstance(getattr(stream.buffer, "raw", None), LossyFile)


def occupy_closed() -> None:
    """Open what is closed of the numbers 0 to 2, which the next files opened would get."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(number)
