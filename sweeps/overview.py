"""Progress of a sweep: a bar with a status line on a terminal, lines with the time elsewhere."""

import time
from collections.abc import Sequence

from runtime.progress import Progress, duration
from sweeps.cells import Cell, read_record, results, seconds
from sweeps.process import CellRun


class Overview:
    """A view of a sweep's progress: counts cells by state and prints changes.

    Args:
        cells: cells of the sweep.
        parallel: how many are at work at a time, for the estimate of the time left.
    """

    def __init__(self, cells: Sequence[Cell], parallel: int = 1):
        self.parallel = parallel
        self.states = {cell.name: "waiting" for cell in cells}
        self.times: list[float] = []  # seconds of finished cells
        self.progress = Progress("sweep", len(cells), "cell", lines=False)
        self.progress.__enter__()
        self.changed = False

    def set(self, cell: Cell, state: str, silent: bool = False) -> None:
        """Set a cell's state: one of sweeps.cells.State, or "busy" (another process has it)."""
        if self.states[cell.name] == state:
            return
        self.states[cell.name] = state
        if state == "finished":
            self.times.append(sum(seconds(cell).values()))
            self.progress.update()
        if not silent:
            self.changed = True
            self.say(f"{state:8s} {cell.name}{about(cell, state)}")

    def refresh(self, runs: Sequence[CellRun] = ()) -> None:
        """Show the counts: on a terminal at once, elsewhere once a minute."""
        self.progress.show(self.status(runs))

    def status(self, runs: Sequence[CellRun] = ()) -> str:
        """Return a line: number of cells by state, commands at work, the time left."""
        states = list(self.states.values())
        counts = [
            f"{states.count(state)} {state}"
            for state in ("finished", "running", "busy", "failed", "waiting")
            if state in states
        ]
        works = [f"{run.cell.name}: {progress(run)}" for run in runs[:3]]
        works += [f"and {len(runs) - 3} more"] if len(runs) > 3 else []
        return "; ".join([", ".join(counts), *works, *self.remaining(runs)])

    def remaining(self, runs: Sequence[CellRun]) -> list[str]:
        """Estimate the time left, once a cell has finished: all cells cost about the same."""
        states = list(self.states.values())
        left = float(sum(states.count(state) for state in ("waiting", "running", "busy")))
        if not self.times or not left:
            return []
        mean = max(1.0, sum(self.times) / len(self.times))
        left -= sum(min(0.9, (time.monotonic() - run.started) / mean) for run in runs)
        return [f"about {duration(left * mean / self.parallel)} left"]

    def say(self, line: str) -> None:
        self.progress.say(line)

    def close(self) -> None:
        self.progress.__exit__()


def about(cell: Cell, state: str) -> str:
    """Return details of a cell that has reached a state, for the end of a line."""
    if state == "failed":
        failure = read_record(cell)["failure"] or {}
        return f": {failure.get('command')}: {failure.get('reason')}"
    if state == "finished":
        metrics = list(results(cell).values())[-1:]
        values = [f"{name} {value:.4g}" for m in metrics for name, value in list(m.items())[:1]]
        return f": {', '.join([*values, duration(sum(seconds(cell).values()))])}"
    return ""


def progress(run: CellRun) -> str:
    """Return the command of a cell at work and its step: "train 340/700"."""
    command = run.command
    if not command or not command.progress:
        return command.name if command else "starting"
    name, last = command.progress
    return f"{command.name} {last_step(run.cell.path(name))}/{last}"


def last_step(path) -> int:
    """Return the step in the last line of a run's metrics.jsonl."""
    from training.tracking import read_log

    rows = read_log(path) if path.exists() else []
    return rows[-1]["step"] if rows else 0
