"""Reports of made-up results: differences as they were put in, none without its spread."""

import csv
import io
import json

import pytest

from sweeps.cells import write_record
from sweeps.pair_findings import Findings
from sweeps.pair_study import PairStudy
from sweeps.pair_tables import cells_csv, markdown, summary_csv, write_report
from sweeps.sweep_folder import load_sweep

NOISE = {0: 0.5, 1: 0.7, 2: 0.3}  # what a seed has in common in all of its runs


@pytest.fixture
def values():
    """2-5 is better by 0.1, give or take; 3-6 is as good; 1-4 has one seed; 1-3 is not finished."""
    better = {((2, 5), 0.3, s): NOISE[s] - 0.1 + 0.001 * s for s in NOISE}
    equal = {((3, 6), 0.3, s): NOISE[s] + (-1) ** s * 0.1 for s in NOISE}
    single = {((1, 4), 0.3, 0): 0.1, ((1, 3), 0.3, 0): None}
    return {(None, 0.0, s): value for s, value in NOISE.items()} | better | equal | single


def rows_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_summary_says_better_only_where_the_interval_excludes_zero(made_up, values):
    rows = rows_of(summary_csv(Findings(*made_up(values), "pixel_frechet")))
    by_pair = {(row["student"], row["teacher"]): row for row in rows}
    verdicts = {pair: row["verdict"] for pair, row in by_pair.items()}
    assert verdicts == {
        ("", ""): "baseline",
        ("2", "5"): "better",
        ("3", "6"): "none shown",
        ("1", "4"): "one seed",
    }
    assert float(by_pair["2", "5"]["difference"]) == pytest.approx(-0.099)
    assert float(by_pair["2", "5"]["pixel_frechet"]) == pytest.approx(0.401)
    one = by_pair["1", "4"]
    assert one["difference"] == one["low"] == one["deviation"] == ""  # 0.1 - 0.5 is never shown


def test_more_is_better_for_recall(made_up, values):
    worse = {key: value for key, value in values.items() if key[0] in (None, (2, 5))}
    study, cells = made_up(worse)
    for cell, value in zip(cells, worse.values(), strict=True):
        record = json.loads((cell.folder / "cell.json").read_text())
        path = cell.folder / cell.commands[-1].outputs[0]
        content = json.loads(path.read_text())
        content["metrics"]["pixel_recall"] = value
        path.write_text(json.dumps(content))
        from sweeps.cells import fingerprint

        record["done"][cell.commands[-1].name]["outputs"][path.name] = fingerprint(path)
        write_record(cell, record)
    rows = rows_of(summary_csv(Findings(study, cells, "pixel_recall")))
    assert [row["verdict"] for row in rows] == ["baseline", "worse"]


def test_every_cell_is_listed_with_its_state(made_up, values):
    study, cells = made_up(values)
    cells[-1].folder.mkdir()
    failure = {"command": "train", "exit_code": 3, "reason": "the loss | is not finite"}
    write_record(cells[-1], {"done": {}, "failure": failure})
    findings = Findings(study, cells, "pixel_frechet")
    rows = rows_of(cells_csv(findings))
    assert len(rows) == len(cells) == len(values)
    assert rows[-1]["state"] == "failed" and rows[-1]["pixel_frechet"] == ""
    assert rows[-1]["failure"] == "train: the loss | is not finite"
    assert [float(row["pixel_frechet"]) for row in rows[:3]] == list(NOISE.values())
    text = markdown(findings, [])
    assert "11 cells: 1 failed, 10 finished." in text
    line = r"| 1-3-lambda0.3-seed0 | train: the loss \| is not finite | cells/1-3-lambda0.3-seed0/"
    assert line in text and "about 0.1 of these 2 intervals" in text


def test_markdown_shows_no_difference_of_one_seed(made_up, values):
    text = markdown(Findings(*made_up(values), "pixel_frechet"), [])
    assert "| 1 → 4 | 0.3 | 1 | 0.1 |  | one seed |" in text
    assert (
        "| 2 → 5 | 0.3 | 3 | 0.40 ± 0.20 | -0.09900 (-0.10148 to -0.09652) | **better** |" in text
    )


def test_level_widens_the_intervals(made_up, values):
    study, cells = made_up(values)
    widths = []
    for level in (0.9, 0.99):
        row = next(
            r for r in Findings(study, cells, "pixel_frechet", level).rows if r.pair == (2, 5)
        )
        widths.append(row.difference.half_width)
    assert widths[1] / widths[0] == pytest.approx(9.925 / 2.920, rel=1e-3)  # t tables, 2 degrees


def test_pictures_are_drawn_where_there_is_something_to_see(made_up, values):
    study, _ = made_up(values, checkpoints="all")
    study, cells = load_sweep(PairStudy, study.folder)  # as the command does it
    path = write_report(Findings(study, cells, "pixel_frechet"))
    names = {"heatmap.png", "lambda.png", "steps.png"}
    assert names == {p.name for p in path.parent.glob("*.png")}
    assert all(f"({name})" in path.read_text() for name in names)


def test_half_way_there_are_no_pictures_of_differences(made_up, values):
    first = {key: value for key, value in values.items() if key[2] == 0}
    study, cells = made_up(first | {((2, 5), 0.3, 1): 0.1})  # its vanilla run is not there yet
    path = write_report(Findings(study, cells, "pixel_frechet"))
    assert list(path.parent.glob("*.png")) == []
    assert "one seed" in path.read_text()


def test_an_empty_sweep_has_a_report(made_up):
    study, cells = made_up({(None, 0.0, 0): None})
    assert (
        "1 cells: 1 waiting." in write_report(Findings(study, cells, "pixel_frechet")).read_text()
    )
