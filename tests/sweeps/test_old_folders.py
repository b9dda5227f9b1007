"""Sweep folders that earlier code made are read as they are: finished, and reported to the letter.

tests/golden/sweeps holds what is left of two of them: sweep.json, the cells' records and metrics,
and the reports of that time.
"""

import shutil

import pytest
from launching import ROOT

from sweeps.cells import state, to_do
from sweeps.guidance_grid import GuidancePoint
from sweeps.guidance_study import GuidanceStudy
from sweeps.pair_grid import PairPoint
from sweeps.pair_study import PairStudy
from sweeps.study import report_sweep
from sweeps.sweep_folder import check_same_sweep, join_sweep, load_sweep

OLD = ROOT / "tests" / "golden" / "sweeps"
KINDS = {"pairs": PairStudy, "guidance": GuidanceStudy}
REPORTS = {
    "pairs": ["report/report.md", "report/cells.csv", "report/summary.csv"],
    "guidance": ["guidance.md", "guidance.csv"],
}


@pytest.fixture
def old(tmp_path):
    """old(name) -> a copy of the folder, without its reports."""

    def copy(name):
        folder = tmp_path / name
        shutil.copytree(OLD / name, folder)
        for report in REPORTS[name]:
            (folder / report).unlink()
        return folder

    return copy


@pytest.mark.parametrize("name", KINDS)
def test_cells_are_finished_and_the_report_is_the_same(old, name, capsys):
    folder = old(name)
    _, cells = load_sweep(KINDS[name], folder)
    assert len(cells) == {"pairs": 4, "guidance": 3}[name]
    assert {state(cell) for cell in cells} == {"finished"}
    assert report_sweep(KINDS[name], folder) == 0
    for report in REPORTS[name]:
        assert (folder / report).read_bytes() == (OLD / name / report).read_bytes()
    assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize("name", KINDS)
def test_more_points_join_an_old_folder(old, name):
    folder = old(name)
    point = {"pairs": PairPoint((1, 4), 0.2, 0), "guidance": GuidancePoint(3.0)}[name]
    study, before = load_sweep(KINDS[name], folder)
    join_sweep(study, [point])
    _, after = load_sweep(KINDS[name], folder)
    new = [cell for cell in after if cell.recipe not in [c.recipe for c in before]]
    assert [cell.name for cell in new] == [point.name] and len(after) == len(before) + 1
    assert to_do(new[0]) == list(new[0].commands)


@pytest.mark.parametrize(("name", "other"), [("pairs", "guidance"), ("guidance", "pairs")])
def test_a_folder_of_another_kind_of_study_is_refused(old, name, other):
    folder = old(name)
    with pytest.raises(ValueError, match=rf"not the sweep\.json of a {KINDS[other].title}"):
        load_sweep(KINDS[other], folder)
    study, _ = load_sweep(KINDS[other], old(other))
    study.folder = folder
    with pytest.raises(ValueError, match=r"not the sweep\.json"):
        check_same_sweep(study)
