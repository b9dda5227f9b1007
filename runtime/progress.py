"""Progress of a command: a bar on a terminal, whole lines in a log.

    with Progress("samples", total=50_000, unit="image") as progress:
        progress.update(64)
        progress.say("samples.png: the first 64 images")

The bar is drawn on stderr if that is a terminal. If stdout is none, as under SLURM or with
`> train.log`, a line with count, speed and time left is printed there now and then, and one for
each thing that is said, with the time of day.
"""

import sys
import time
from collections.abc import Collection, Iterator
from datetime import datetime

from tqdm import tqdm

LINE_SECONDS = 60.0  # between lines about the same work


class Progress:
    """Progress of some work; `update`, `reach` and `say` do nothing when not `shown`.

    Args:
        name: what is worked on.
        total: how much there is.
        unit: what is counted, in the singular.
        initial: how much was done before.
        shown: whether this process speaks, which is the first one.
        lines: whether lines about the count are printed by themselves.
        delay: seconds before a bar is drawn, for work that is mostly done by then.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str = "",
        initial: int = 0,
        shown: bool = True,
        lines: bool = True,
        delay: float = 0,
    ):
        self.name, self.total, self.unit, self.initial = name, total, unit, initial
        self.shown, self.lines, self.delay, self.done = shown, lines, delay, initial
        self.bar: tqdm | None = None
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        self.started = self.last_line = time.monotonic()
        self.bar = tqdm(
            desc=self.name,
            total=self.total,
            initial=self.initial,
            unit=self.unit or "it",
            dynamic_ncols=True,
            miniters=0,  # one step may take minutes
            delay=self.delay,
            disable=not (self.shown and sys.stderr.isatty()),
        )
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def update(self, count: int = 1, note: str = "") -> None:
        """Count more work as done; a note is shown beside the bar."""
        self.reach(self.done + count, note)

    def reach(self, done: int, note: str = "") -> None:
        """Set how much is done; a note is shown beside the bar."""
        ahead, self.done = done - self.done, done
        if self.bar is not None and self.on_terminal:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(ahead)
        if self.lines and self.due:
            self.say(self.status())

    def show(self, status: str) -> None:
        """Show a status of the caller's own beside the bar, or as a line when one is due."""
        if self.bar is not None and self.on_terminal:
            self.bar.set_postfix_str(status)
        elif self.due:
            self.say(status)

    @property
    def on_terminal(self) -> bool:
        return self.bar is not None and not self.bar.disable

    @property
    def due(self) -> bool:
        """Return whether the last line is so long ago that one about the same work may follow."""
        return time.monotonic() - self.last_line >= LINE_SECONDS

    def say(self, text: str) -> None:
        """Print a line: above the bar, or with the time of day in a log."""
        if not self.shown:
            return
        self.last_line = time.monotonic()
        if sys.stdout.isatty():
            tqdm.write(text, file=sys.stdout)
        else:
            print(f"{datetime.now():%m-%d %H:%M:%S} {text}", flush=True)

    def status(self) -> str:
        """Return count, speed and time left, in a line."""
        units = f" {plural(self.unit)}" if self.unit else ""
        parts = [f"{self.name}: {self.done:,} of {self.total:,}{units}"]
        if rate := self.rate():
            parts += [f"{rate:.3g}{units}/s", self.left()]
        return ", ".join(parts)

    def rate(self) -> float:
        """Return the units per second since the start of this process's work."""
        seconds = time.monotonic() - self.started
        return (self.done - self.initial) / seconds if seconds > 0 else 0.0

    def left(self) -> str:
        """Return the time that the rest takes at this speed."""
        rate = self.rate()
        return f"{duration((self.total - self.done) / rate)} left" if rate else "time left unknown"


def over(items: Collection, name: str, unit: str, shown: bool = True) -> Iterator:
    """Go through `items`, which have a length, and show how far it is."""
    with Progress(name, len(items), unit, shown=shown) as progress:
        for item in items:
            yield item
            progress.update()


def plural(unit: str) -> str:
    return f"{unit}es" if unit.endswith(("ch", "ss")) else f"{unit}s" if unit else ""


def duration(seconds: float) -> str:
    """Write a time for reading: 45 s, 12 min, 3.4 h, 2.1 d."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
