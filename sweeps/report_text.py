"""Text for the reports of all kinds of sweeps: tables, failures, progress."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence

from runtime.progress import duration
from sweeps.cells import Cell, read_record, seconds


def as_csv(head: list[str], rows: list[list]) -> str:
    """Return a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def aligned_table(rows: list[list[str]]) -> list[str]:
    """Return rows, of which the first is the head, as an aligned Markdown table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def failure(cell: Cell) -> str:
    """Return the failed command of a cell and the reason, empty if none failed."""
    failed = read_record(cell)["failure"]
    return f"{failed['command']}: {failed['reason']}" if failed else ""


def failures(cells: Sequence[Cell], states: Mapping[str, str]) -> list[str]:
    """Return a line for each failed cell, with the path of its log."""
    failed = [cell for cell in cells if states[cell.name] == "failed"]
    return [f"{cell.name} failed: {failure(cell)}; see {cell.log}" for cell in failed]


def progress_line(cells: Sequence[Cell], states: Mapping[str, str]) -> str:
    """Return the number of cells by state, and the time that a finished one took."""
    counts = Counter(states.values())
    parts = [f"{n} {name}" for name, n in sorted(counts.items())]
    line = f"{len(cells)} cells: {', '.join(parts)}."
    times = [sum(seconds(c).values()) for c in cells if states[c.name] == "finished"]
    if times:
        line += f" A finished cell took {duration(sum(times) / len(times))} on average."
    return line
