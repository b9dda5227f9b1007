"""No check can be removed unseen: without it a row of the tables fails, or a test that is named.

The rows are run once, and noted which errors each meets. Then each check is removed from the
program in turn, and the rows that met it are run until one of them fails.
"""

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hostile.checks import Check, all_checks
from hostile.held_by_tests import HELD_BY_TESTS
from hostile.launches import Outcome, check_outcome
from hostile.row import Row
from hostile.sandbox import make_sandbox
from hostile.tables_of_rows import COMMANDS, RUNS

ALTERED_PROGRAM = "tests/hostile/altered_program.py"
ROWS = (*RUNS, *COMMANDS)
PATIENCE = 100  # seconds for tests, which may hang without a check
pytestmark = pytest.mark.slow


class Table:
    """Launches rows with altered programs."""

    def __init__(self, server, folder: Path):
        self.server, self.folder, self.box = server, folder, folder / "box"
        self.box.mkdir()
        make_sandbox(self.box, server)

    def launch(self, row: Row, how: str, value, name: str) -> Outcome:
        altered = replace(row, command=f"{ALTERED_PROGRAM} {how} {value} {row.command}")
        return Outcome(altered, self.folder / name, self.box, self.server)

    def raised(self, number: int) -> set[str]:
        """Return the lines, as PATH:LINE, at which a row met an error; none if it fails anyway."""
        row, file = ROWS[number], self.folder / f"raised{number}"
        fails = failed(row, self.launch(row, "noting", file, f"noting{number}"))
        return set(file.read_text().split()) if file.exists() and not fails else set()

    def fails_without(self, check: Check, rows: list[Row], name: str) -> bool:
        """Return whether one of these rows fails without a check."""
        return any(
            failed(row, self.launch(row, "without", check, f"{name}-{i}"))
            for i, row in enumerate(rows)
        )

    def passes(self, tests: str, without: Check | None = None) -> bool:
        """Return whether some tests pass, without a check."""
        words = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
        altered = [ALTERED_PROGRAM, "without", without] if without else []
        process = self.server.start([*altered, *words])
        try:
            return process.wait(PATIENCE) == 0
        except TimeoutError:
            process.kill()
            return False


def failed(row: Row, outcome: Outcome) -> bool:
    try:
        check_outcome(row, outcome)
    except AssertionError:
        return True
    return False


def on_all_cores():
    return ThreadPoolExecutor(os.cpu_count() or 2)


@pytest.fixture(scope="module")
def table(fork_server, tmp_path_factory):
    return Table(fork_server, tmp_path_factory.mktemp("checks"))


@pytest.fixture(scope="module")
def rows_that_meet(table):
    """{check: the rows that meet it} of all checks."""
    at = defaultdict(list)  # PATH:LINE: rows
    with on_all_cores() as threads:
        for row, lines in zip(ROWS, threads.map(table.raised, range(len(ROWS))), strict=True):
            for line in lines:
                at[line].append(row)
    return {
        check: list({row.name: row for line in check.lines for row in at[line]}.values())
        for check in all_checks()
    }


def test_a_row_fails_without_the_check_that_it_meets(table, rows_that_meet):
    met = {check: rows for check, rows in rows_that_meet.items() if rows}
    names = [f"without{i}" for i in range(len(met))]
    with on_all_cores() as threads:
        held = threads.map(table.fails_without, met.keys(), met.values(), names)
        missed = [str(check) for check, fails in zip(met, held, strict=True) if not fails]
    assert not missed, f"no row misses {', '.join(missed)}"


def test_what_no_row_meets_is_held_by_a_test(rows_that_meet):
    unmet = {check.place for check, rows in rows_that_meet.items() if not rows}
    assert unmet <= HELD_BY_TESTS.keys(), "give them a row, or name their test in held_by_tests.py"
    assert HELD_BY_TESTS.keys() <= {check.place for check in all_checks()}, "these checks are gone"


def test_a_test_fails_without_the_check_that_it_holds(table, rows_that_meet):
    unmet = [check for check, rows in rows_that_meet.items() if not rows]
    tests = [HELD_BY_TESTS[check.place] for check in unmet]
    assert table.passes(" ".join(set(tests))), "a test fails anyway"
    with on_all_cores() as threads:
        passed = list(threads.map(table.passes, tests, unmet))
    missed = [str(check) for check, ok in zip(unmet, passed, strict=True) if ok]
    assert not missed, f"no test misses {', '.join(missed)}"
