"""The report on the paper's rows, from fabricated results: table, CSV, pictures."""

import csv
import json

import pytest
from paper_results import REFERENCE, finish_cell

from scripts.reproduce import FOLDER, List, list_rows
from sweeps.cells import read_record, write_record
from sweeps.paper_findings import find
from sweeps.paper_pictures import draw_ours, new_figure
from sweeps.paper_points import PaperConfig, PaperGrid
from sweeps.paper_report import write_report
from sweeps.paper_rows import all_rows
from sweeps.paper_study import PaperStudy
from sweeps.sweep_folder import join_sweep, load_sweep

CURVE = all_rows()["xl2-sde-curve"].curve


@pytest.fixture
def study(tmp_path):
    (tmp_path / REFERENCE).touch()
    (tmp_path / "data").mkdir()
    manifest = {"image_size": 256, "num_classes": 1000}
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    study = PaperStudy(PaperConfig(str(tmp_path / REFERENCE), str(tmp_path / "out")))
    results = {  # row: FIDs by seed, by step or by variant
        "b2-layersync": [{400_000: 29.9}, {400_000: 30.3}],
        "b2-vanilla": [{400_000: 35.0}],
        "xl2-sde-curve": [{step: fid * 1.01 for step, fid in CURVE.items()}],
        "xl2-guidance": [{1_000_000: fid} for fid in (2.2, 2.0, 1.95, 1.9, 2.1)],
        "b2-weights": [{400_000: fid} for fid in (33.0, 31.0, 30.0, 31.5, 36.0)],
    }
    for name, fids_of_points in results.items():
        seeds = (0, 1) if name == "b2-layersync" else (0,)
        points = study.points(PaperGrid((name,), seeds, str(tmp_path / "data")))
        join_sweep(study, points)
        for point, fids in zip(points, fids_of_points, strict=True):
            finish_cell(study.cell(point), fids)
    points = study.points(PaperGrid(("l2-vanilla",), (0,), str(tmp_path / "data")))
    join_sweep(study, points)
    failed = study.cell(points[0])
    failed.folder.mkdir(parents=True)
    failure = {"command": "train 400000", "exit_code": 1, "reason": "out of memory"}
    write_record(failed, read_record(failed) | {"failure": failure})
    return load_sweep(PaperStudy, study.folder)


def test_the_report_has_values_verdicts_and_pictures(study):
    lines = write_report(*study)
    folder = study[0].folder
    table = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    text = "\n".join(lines)
    layersync = " ".join(table["b2-layersync"].split())
    assert "| 30.00 | 30.10 | +0.10 | +-0.57: 2 sd over 2 seeds | reproduced |" in layersync
    assert "| -1.19 " in table["b2-vanilla"] and "| differs " in table["b2-vanilla"]
    assert "1.90 at cfg1.4" in table["xl2-guidance"] and "a sweep: near" in table["xl2-guidance"]
    assert "agrees, with settings guessed" in table["xl2-sde-curve"]
    assert "0 of 1 cells finished, 1 failed" in table["l2-vanilla"]
    assert "50,000 samples, ODE heun2, 250 points, NFE 498: b2-" in text
    assert "NFE 498, 3 channels guided: xl2-guidance" in text
    assert "l2-vanilla-seed0 failed: train 400000: out of memory; see " in text
    assert "xl2-guidance, not published: the scale" in text
    assert "xl2-guidance: fid ↓ 1.9 (published 1.89), inception score ↑ 100 (pub" in text
    assert all((folder / name).stat().st_size > 5000 for name in ("rows.png", "curve.png"))
    assert (folder / "report.md").read_text().startswith("# The paper's rows")


def test_the_csv_has_every_number_beside_the_published_one(study):
    write_report(*study)
    with open(study[0].folder / "report.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "fid"]
    curve = {int(r["step"]): r for r in rows if r["row"] == "xl2-sde-curve"}
    assert {step: float(r["published"]) for step, r in curve.items()} == CURVE
    assert {s: float(r["value"]) for s, r in curve.items()} == pytest.approx(
        {step: fid * 1.01 for step, fid in CURVE.items()}
    )
    weights = {r["variant"]: float(r["value"]) for r in rows if r["row"] == "b2-weights"}
    assert weights == {
        "lambda0.1": 33, "lambda0.2": 31, "lambda0.3": 30, "lambda0.5": 31.5, "lambda1.0": 36,
    }  # fmt: skip
    assert float(curve[50_000]["high"]) - float(curve[50_000]["low"]) == pytest.approx(0.6)


def test_the_curve_is_drawn_through_our_points(study):
    (finding,) = [f for f in find(*study) if f.row.curve]
    _, axes = new_figure()
    draw_ours(axes, finding)
    line = axes.lines[0]  # before the caps of its intervals
    assert list(line.get_xdata()) == sorted(CURVE)
    assert list(line.get_ydata()) == pytest.approx([CURVE[s] * 1.01 for s in sorted(CURVE)])


def test_the_list_shows_ours_where_a_folder_has_them(study, capsys):
    assert list_rows(List(folder=str(study[0].folder))) == 0
    said = capsys.readouterr().out
    assert "ours so far:" in said and "b2-layersync: 30.10, reproduced" in said
    assert list_rows(List(folder=str(study[0].folder), markdown=True)) == 0
    said = capsys.readouterr().out
    assert "| 30.10, reproduced " in said and "not run: needs 58 GPU hours" in said
    assert FOLDER == "results/reproduce"
