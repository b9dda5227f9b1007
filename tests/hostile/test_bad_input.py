"""Runs and the files that they read refuse bad input by one clear line, and lose nothing."""

import pytest
from hostile.launches import check_outcome, launch_rows
from hostile.tables_of_rows import ALTERED_FILES_OF_RUNS, COMMANDS, RUNS


@pytest.fixture(scope="module")
def outcomes(request, fork_server, tmp_path_factory):
    items = request.session.items
    return launch_rows(items, request.module, fork_server, tmp_path_factory.mktemp)


@pytest.mark.parametrize("row", RUNS, ids=[row.name for row in RUNS])
def test_a_bad_input_is_one_clear_line(row, outcomes):
    check_outcome(row, outcomes[row.name])


def test_the_tables_are_large_and_their_names_are_unique():
    names = [row.name for row in (*RUNS, *COMMANDS)]
    assert len(names) == len(set(names))
    assert len([row for row in RUNS if row.says]) >= 300 and len(ALTERED_FILES_OF_RUNS) >= 150
