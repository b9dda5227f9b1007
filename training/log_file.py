"""metrics.jsonl while it is written: lines that the disk does not take wait for their turn.

A run is worth more than a line of its log: a disk that is full, or a network file system that does
not answer, ends no run here (it ends one whose checkpoint cannot be written). The lines stay in
memory, and are tried again with the next one.
"""

import contextlib
import os
from pathlib import Path

from runtime.command import warn
from runtime.error_text import in_one_line, may_be_mended


class LogFile:
    """A file to which whole lines are added, in order.

    An error that room or time may mend is said once, until lines are written again; others are
    raised.
    """

    def __init__(self, path: Path):
        self.path = path
        self.waiting: list[str] = []

    def add(self, line: str) -> None:
        """Write a line, without its end, and those that wait."""
        told = bool(self.waiting)
        self.waiting.append(line)
        if (error := self.try_to_write()) and not told:
            warn(
                f"{error}; the run goes on, its next lines are kept in memory and tried again with "
                f"each one"
            )

    def close(self) -> None:
        """Try a last time to write what waits, and say so when it is lost."""
        if self.waiting and (error := self.try_to_write()):
            warn(f"{error}: its last {len(self.waiting)} lines are lost")

    def try_to_write(self) -> str:
        """Write what waits, all or nothing; return what was wrong, "" if nothing was."""
        try:
            append("".join(f"{line}\n" for line in self.waiting).encode(), self.path)
        except OSError as error:
            if not may_be_mended(error):
                raise
            error.filename = error.filename or str(self.path)
            return in_one_line(error)
        self.waiting = []
        return ""


def append(content: bytes, path: Path) -> None:
    """Add to the end of a file, all or nothing."""
    with open(path, "ab", buffering=0) as file:
        before, done = os.fstat(file.fileno()).st_size, 0
        try:
            while done < len(content):
                done += file.write(content[done:])
        except OSError:
            with contextlib.suppress(OSError):  # of what is no regular file
                file.truncate(before)
            raise
