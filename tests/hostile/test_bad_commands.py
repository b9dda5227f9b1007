"""Scores, probes, sweeps and scripts refuse bad input by one clear line, and lose nothing."""

import pytest
from hostile.launches import check_outcome, launch_rows
from hostile.tables_of_rows import COMMANDS


@pytest.fixture(scope="module")
def outcomes(request, fork_server, tmp_path_factory):
    items = request.session.items
    return launch_rows(items, request.module, fork_server, tmp_path_factory.mktemp)


@pytest.mark.parametrize("row", COMMANDS, ids=[row.name for row in COMMANDS])
def test_a_bad_input_is_one_clear_line(row, outcomes):
    check_outcome(row, outcomes[row.name])
