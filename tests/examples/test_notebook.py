"""examples/layersync.ipynb runs from the top, in ten cells, and its pictures are stored in it."""

import base64
import json
import sys

import pytest
from launching import ROOT
from notebook import run_notebook

NOTEBOOK = ROOT / "examples" / "layersync.ipynb"
PICTURES = 5


def pictures(notebook: dict) -> list[bytes]:
    outputs = [each for cell in notebook["cells"] for each in cell.get("outputs", [])]
    return [base64.b64decode(each["data"]["image/png"]) for each in outputs if "data" in each]


def test_it_holds_its_outputs():
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) == 10 and notebook["nbformat"] == 4
    assert [cell["execution_count"] for cell in code] == list(range(1, 11))
    stored = pictures(notebook)
    assert len(stored) == PICTURES and all(png.startswith(b"\x89PNG") for png in stored)
    assert NOTEBOOK.stat().st_size < 300_000
    assert str(ROOT) not in NOTEBOOK.read_text()


@pytest.mark.slow
def test_it_runs_from_the_top(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    notebook, names = run_notebook(NOTEBOOK)
    assert len(pictures(notebook)) == PICTURES
    last = {run: rows[-1] for run, rows in names["logs"].items()}
    assert last["layer_sync"]["similarity_2_5"] > 0.97 > last["vanilla"]["similarity_2_5"] + 0.03
    assert all(row["velocity_loss"] < 0.55 for row in last.values())
    assert all(max(values) > 0.3 for values in names["accuracy"].values()), "0.1 is chance"
    assert names["scores"]["vanilla"]["label_agreement"] > 0.8, "0.1 is chance"
