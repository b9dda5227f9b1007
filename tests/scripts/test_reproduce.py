"""The command: pages, bad input in one line, and rows of each kind in miniature, whole."""

import json
import re
import shlex

import pytest
from forking import forked_python
from launching import ROOT, run

from runtime.command import parse_command
from scripts import reproduce
from scripts.reproduce import List, Report, Run, Show
from sweeps.cells import state
from sweeps.paper_miniature import SAYS
from sweeps.paper_study import PaperStudy
from sweeps.sweep_folder import load_sweep
from training.tracking import read_log

SCRIPT = "scripts/reproduce.py"
PARTS = {"list": List, "show": Show, "run": Run, "report": Report}


def page_commands(page: str) -> list[list[str]]:
    """Arguments of the script in a page's bash blocks."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.S))
    words = [shlex.split(line, comments=True) for line in blocks.replace("\\\n", " ").splitlines()]
    return [line[line.index(SCRIPT) + 1 :] for line in words if SCRIPT in line]


@pytest.mark.parametrize("page", ["README.md", "docs/reproduce.md"])
def test_documented_commands_are_valid(page):
    calls = page_commands(page)
    assert len(calls) >= 3
    for words in calls:
        parse_command(PARTS, words, SCRIPT)


def main(monkeypatch, *words) -> int:
    monkeypatch.setattr("sys.argv", [SCRIPT, *map(str, words)])
    return reproduce.main()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "b2-layer-sync"], "b2-layer-sync: there is no such row; did you mean b2-layer"),
        (["show", "nothing-like-it"], "nothing-like-it: there is no such row"),
        (["run"], "run: name a row; scripts/reproduce.py list shows them"),
        (["run", "b2-layersync"], "--ref is missing"),
        (["run", "b2-layersync", "--ref", "README.md"], "b2-layersync: --data-path is missing"),
        (["run", "b2-layersync", "--ref", "README.md", "--data-path", "docs"],
         " folders of classes, and b2-layersync trains on 1000"),
        (["run", "b2-layersync", "--miniature", "--ref", "x"], "--ref x: a miniature is scored"),
        (["run", "b2-layersync", "--miniature", "--train", "--lr 0"], "--lr 0.0: it must be pos"),
        (["run", "b2-layersync", "--miniature", "--nodes", "2"], "--nodes 2 has no effect without"),
        (["run", "b2-layersync", "--miniature", "--folder", "docs"], "docs holds something else"),
        (["report", "docs"], "docs: no sweep is there"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_any_work(words, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(monkeypatch, *words)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_it_starts_from_nothing(tmp_path):
    done = run(SCRIPT, "list", "--folder", tmp_path, real=True)
    assert done.returncode == 0 and "b2-layersync" in done.stdout and not done.stderr


@pytest.fixture
def miniature(tmp_path, monkeypatch):
    """miniature(*rows) -> run them whole, with their processes forked; the cells."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sys.executable", forked_python())
    folder = tmp_path / "mini"

    def make(*words):
        assert main(monkeypatch, "run", *words, "--miniature", "--folder", folder) == 0
        _, cells = load_sweep(PaperStudy, folder)
        assert {state(cell) for cell in cells} == {"finished"}
        return {cell.name: cell for cell in cells}

    return make


def settings_of(cell) -> dict:
    """config.json of the run that a cell samples."""
    run = next(command for command in cell.commands if command.words[0] == "train.py")
    return json.loads((cell.path(run.outputs[0]).parents[1] / "config.json").read_text())


def recipe_of(cell) -> dict:
    return json.loads(cell.path(cell.commands[-1].outputs[0]).read_text())["recipe"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("b2-vanilla", {"loss_type": "vanilla"}),
        ("l2-dispersive", {"loss_type": "dispersive", "dispersive_depth": 24}),
        ("xl2-sra", {"loss_type": "sra", "sra_student_depth": 8, "sra_teacher_depth": 20}),
        ("xl2-repa-layersync", {"loss_type": "repa+layer_sync", "repa_depth": 8,
                                "encoder_depth": 8, "gt_encoder_depth": 16, "reg_weight": 0.2}),
    ],
)  # fmt: skip
def test_a_row_of_each_loss(miniature, capsys, row, expected):
    (cell,) = miniature(row).values()
    assert settings_of(cell).items() >= expected.items()
    said = capsys.readouterr().out
    assert SAYS in said and "miniature: not comparable" in said and "reproduced |" not in said


@pytest.mark.slow
def test_rows_of_both_solvers_and_a_schedule_share_one_run(miniature, capsys):
    """80 epochs by the ODE, then the curve by the SDE: the run goes on, no step twice."""
    first = miniature("xl2-layersync")["xl2-layersync-seed0"]
    assert recipe_of(first)["solver"]["sampling_method"] == "heun2"
    assert recipe_of(first)["nfe"]["mean"] == 8  # 4 steps of 2
    cells = miniature("xl2-sde-curve")
    curve = cells["xl2-sde-curve-seed0"]
    assert recipe_of(curve)["solver"]["solver"] == "SDE"
    run = curve.path(curve.commands[0].outputs[0]).parents[1]
    assert run == first.path(first.commands[0].outputs[0]).parents[1]
    assert [row["step"] for row in read_log(run / "metrics.jsonl")] == list(range(1, 17))
    capsys.readouterr()
    again = miniature("xl2-layersync", "xl2-sde-curve")
    assert "running" not in capsys.readouterr().out and again.keys() == cells.keys()
    assert (run.parents[1] / "curve.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_row_of_guidance(miniature, capsys):
    cells = miniature("xl2-guidance-interval")
    assert len(cells) == 3 and len({c.path(c.commands[0].outputs[0]) for c in cells.values()}) == 1
    recipe = recipe_of(cells["xl2-guidance-interval-cfg1.8-on-0.3-1-seed0"])
    assert (recipe["cfg_scale"], recipe["guidance_interval"]) == (1.8, [0.3, 1.0])
    assert recipe["cfg_channels"] == "all"
    assert recipe["network_passes"]["mean"] > recipe["nfe"]["mean"]
    logs = [cell.log.read_text() for cell in cells.values()]
    assert sum("finished: step" in log for log in logs) == 1  # trained once
    assert "all channels guided" in capsys.readouterr().out


@pytest.mark.slow
def test_a_row_of_settings_over_time(miniature, capsys):
    cells = miniature("b2-t-range")
    ranges = [tuple(settings_of(cell)["reg_t_range"]) for cell in cells.values()]
    assert sorted(ranges) == [(0.0, 0.5), (0.0, 1.0), (0.5, 1.0)]
    assert "## b2-t-range" in capsys.readouterr().out


@pytest.mark.slow
def test_published_weights_in_miniature(miniature):
    """A checkpoint of the project's own stands for the file."""
    cells = miniature("sit-xl2-sde-cfg1.5")
    recipe = recipe_of(cells["sit-xl2-sde-cfg1.5-seed0"])
    assert recipe["cfg_scale"] == 1.5 and recipe["cfg_channels"] == "3"
