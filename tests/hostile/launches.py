"""Launches of the tables' rows, and what each must leave.

Each is a real process, forked from one that has imported everything, without root's right to write
everywhere.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hostile.row import Row
from hostile.sandbox import make_sandbox

LINES = 6  # at most, on standard error
MEMORY = 2**31  # bytes beyond what the imports take
SECONDS = 20
RESULTS = (".pt", ".npz", ".csv", ".png", ".tmp", ".safetensors")


def contents(folder: Path) -> dict[str, tuple]:
    """Name, size and time of every file below."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


class Outcome:
    """A launch and what it left."""

    def __init__(self, row: Row, here: Path, box: Path, server):
        here.mkdir()
        if row.prepare:
            row.prepare(here, box)
        before = contents(here)
        environment = {"HOME": str(here), **row.environment}
        settings = dict(environment=environment, memory=MEMORY, privileges=False)
        process = server.start(row.words(here, box), folder=here, **settings)
        try:
            self.code = process.wait(SECONDS)
        except TimeoutError:
            process.kill()
            self.code = f"still running after {SECONDS} s"
        self.said = process.stderr
        after = contents(here)
        self.changed = [name for name, state in before.items() if after.get(name) != state]
        self.made = sorted(name for name in after.keys() - before.keys())


def launch_rows(items: list, module, server, make_folder) -> dict[str, Outcome]:
    """Launch the rows that a session asks of a module's table, some at a time, by their names.

    Args:
        items: tests of the session.
        make_folder: makes a folder of its own for each name that it is called with.
    """
    asked = [getattr(item, "callspec", None) for item in items if item.module is module]
    rows = [call.params["row"] for call in asked if call and "row" in call.params]
    box, folder = make_folder("box"), make_folder("rows")
    make_sandbox(box, server)
    good = contents(box)
    with ThreadPoolExecutor(max(2, (os.cpu_count() or 2))) as threads:
        launches = {
            row.name: threads.submit(Outcome, row, folder / str(i), box, server)
            for i, row in enumerate(rows)
        }
        results = {name: launch.result() for name, launch in launches.items()}
    assert contents(box) == good, "a launch changed files that it was only to read"
    return results


def check_outcome(row: Row, outcome: Outcome) -> None:
    """Fail unless bad input was one clear line and nothing was lost, or good input was taken."""
    assert "Traceback" not in outcome.said, outcome.said[-3000:]
    if row.says is None:
        assert outcome.code == 0, outcome.said[-3000:]
        assert re.search(row.warns, outcome.said), outcome.said
        return
    assert outcome.code in (1, 2), (outcome.code, outcome.said[-2000:])
    lines = [line for line in outcome.said.splitlines() if line.strip()]
    assert 1 <= len(lines) <= LINES, outcome.said[-3000:]
    assert re.search(row.says, outcome.said, re.DOTALL), outcome.said
    assert not outcome.changed, f"changed {outcome.changed}"
    begun = outcome.code == 1  # a run that met the bad input at work leaves its settings and log
    left = [name for name in outcome.made if not begun or name.endswith(RESULTS)]
    assert not [name for name in left if not name.endswith(".lock")], f"left {left}"
