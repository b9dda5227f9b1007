"""Every command refuses bad input by one clear line, and loses nothing.

A table of launches (rows.py says what a row is): flags.py has bad values of flags, outputs.py
outputs that cannot be written, altered_*.py files that were altered, controls.py good input. Each
is a real process, forked from one that has imported everything, without root's right to write
everywhere.
"""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile.altered_checkpoints import checkpoint_file_rows
from hostile.altered_data import data_rows
from hostile.altered_samples import sample_file_rows
from hostile.altered_settings import settings_rows
from hostile.altered_weights import altered_weights_rows
from hostile.begun_outputs import begun_rows
from hostile.contradictions import contradiction_rows
from hostile.controls import control_rows
from hostile.flags import flag_rows
from hostile.other_scripts import script_rows
from hostile.outputs import output_rows
from hostile.probed_blocks import probed_block_rows
from hostile.probing_and_sharing import altered_probing_rows, probing_rows
from hostile.recipes_and_folders import recipe_rows
from hostile.rows import Row
from hostile.sandbox import make_sandbox
from hostile.scoring import scoring_rows
from hostile.sweep_commands import sweep_command_rows
from hostile.unfit_data import unfit_rows

LINES = 6  # at most, on standard error
MEMORY = 2**31  # bytes beyond what the imports take
SECONDS = 20
RESULTS = (".pt", ".npz", ".csv", ".png", ".tmp", ".safetensors")

ALTERED = [
    *checkpoint_file_rows(),
    *sample_file_rows(),
    *data_rows(),
    *settings_rows(),
    *altered_probing_rows(),
    *unfit_rows(),
    *altered_weights_rows(),
]
ROWS = [
    *flag_rows(),
    *contradiction_rows(),
    *output_rows(),
    *begun_rows(),
    *probing_rows(),
    *sweep_command_rows(),
    *recipe_rows(),
    *script_rows(),
    *scoring_rows(),
    *probed_block_rows(),
    *ALTERED,
    *control_rows(),
]


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
        start = time.monotonic()
        process = server.start(row.words(here, box), folder=here, **settings)
        try:
            self.code = process.wait(SECONDS)
        except TimeoutError:
            process.kill()
            self.code = f"still running after {SECONDS} s"
        self.seconds = time.monotonic() - start
        self.processor_time = process.processor_time
        self.said = process.stderr
        after = contents(here)
        self.changed = [name for name, state in before.items() if after.get(name) != state]
        self.made = sorted(name for name in after.keys() - before.keys())


@pytest.fixture(scope="module")
def outcomes(request, fork_server, tmp_path_factory):
    """Every row that was asked for, launched; some at a time."""
    rows = [item.callspec.params["row"] for item in request.session.items if has_row(item)]
    box = tmp_path_factory.mktemp("box")
    make_sandbox(box, fork_server)
    good = contents(box)
    folder = tmp_path_factory.mktemp("rows")
    with ThreadPoolExecutor(max(2, (os.cpu_count() or 2))) as threads:
        launches = {
            row.name: threads.submit(Outcome, row, folder / str(i), box, fork_server)
            for i, row in enumerate(rows)
        }
        results = {name: launch.result() for name, launch in launches.items()}
    assert contents(box) == good, "a launch changed files that it was only to read"
    return results


def has_row(item: pytest.Item) -> bool:
    return isinstance(getattr(getattr(item, "callspec", None), "params", {}).get("row"), Row)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_bad_input_is_one_clear_line(row, outcomes):
    outcome = outcomes[row.name]
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


def test_the_table_is_large_and_its_names_are_unique():
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert len([row for row in ROWS if row.says]) >= 300 and len(ALTERED) >= 150
