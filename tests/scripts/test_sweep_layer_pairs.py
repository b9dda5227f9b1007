"""The command: one cell through training, sampling and evaluation; bad input before any work."""

import json
import re
import shlex

import numpy as np
import pytest
from forking import forked_python
from launching import ROOT, run

from runtime.command import parse_command
from scripts import sweep_layer_pairs
from scripts.sweep_layer_pairs import Report, Run
from sweeps.cells import to_do
from sweeps.pair_study import PairStudy
from sweeps.sweep_folder import load_sweep

SCRIPT = "scripts/sweep_layer_pairs.py"
BASE = (
    "train.py --model SiT-Ti/2 --dataset-name digits --image-size 8 --num-classes 10 --vae none "
    "--global-batch-size 8 --max-steps 4 --log-every 2 --sample-every 0 --num-workers 0"
)
SAMPLE = "sample_ddp.py ODE --sampling-method euler --num-sampling-steps 3 --num-fid-samples 64"


def page_commands(page: str) -> list[list[str]]:
    """Arguments of the script in a page's bash blocks."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.S))
    lines = blocks.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index(SCRIPT) + 1 :] for line in words if SCRIPT in line]


def study(folder, *more) -> list[str]:
    given = ["--base", BASE, "--sample", SAMPLE, "--evaluate", "python -m evaluation --ref digits"]
    return [
        "run", "--folder", str(folder), *given, "--pairs", "[(2,5)]", "--seeds", "0", "--lambdas",
        "0.3", *more,
    ]  # fmt: skip


def test_cells_are_trained_sampled_and_evaluated(tmp_path, monkeypatch, capsys):
    """One cell by real processes, and what the command says of it; then a report."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sys.executable", forked_python())
    points = PairStudy.points
    monkeypatch.setattr(PairStudy, "points", lambda *args: points(*args)[1:])  # not vanilla's
    folder, reference = tmp_path / "sweep", tmp_path / "reference.npz"
    noise = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    np.savez(reference, arr_0=noise)  # without labels: no classifier is fitted
    evaluate = ["--evaluate", f"python -m evaluation --pixels --ref {reference}"]
    monkeypatch.setattr("sys.argv", [SCRIPT, *study(folder, *evaluate)])
    assert sweep_layer_pairs.main() == 0
    said = capsys.readouterr().out
    assert "finished 2-5-lambda0.3-seed0: pixel_frechet" in said
    assert "| no vanilla run yet |" in said
    _, (cell,) = load_sweep(PairStudy, folder)
    config = json.loads((cell.folder / "train" / "config.json").read_text())
    assert (config["encoder_depth"], config["gt_encoder_depth"], config["reg_weight"]) == (
        2,
        5,
        0.3,
    )
    recipe = json.loads((cell.folder / "0000004.metrics.json").read_text())["recipe"]
    assert (recipe["step"], recipe["seed"], recipe["num_samples"]) == (4, 0, 64)
    assert to_do(cell) == [] and not (cell.folder / "0000004.npz").exists()

    monkeypatch.setattr("sys.argv", [SCRIPT, "report", str(folder), "--metric", "pixel_recall"])
    assert sweep_layer_pairs.main() == 0
    assert "pixel recall ↑" in (folder / "report" / "report.md").read_text()
    monkeypatch.setattr("sys.argv", [SCRIPT, *study(folder, *evaluate, "--dry-run")])
    assert sweep_layer_pairs.main() == 0
    assert "1 cells, 1 of them finished" in capsys.readouterr().out


def test_a_dry_run_prints_commands_that_can_be_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    more = ["--dry-run", "--processes-per-cell", "2"]
    monkeypatch.setattr("sys.argv", [SCRIPT, *study(tmp_path / "a b", *more)])
    assert sweep_layer_pairs.main() == 0
    said = capsys.readouterr().out
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith("torchrun ")]
    assert [words[3] for words in commands] == ["train.py", "sample_ddp.py", "-m"] * 2
    assert str(tmp_path / "a b" / "cells" / "vanilla-seed0") in commands[0]
    assert "training, each cell: 4 steps x 8 images" in said and not (tmp_path / "a b").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pairs", "[(2,9)]"], "--pairs: pair (2, 9): LayerSync could not find layer 9"),
        (["--metric", "fid"], "--metric fid: --evaluate gives pixel_frechet"),
        (["--parallel", "0"], "--parallel 0: it must be at least 1"),
        (["--partition", "gpu"], "--partition gpu has no effect without --cluster slurm"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.setattr("sys.argv", [SCRIPT, *study(tmp_path / "sweep", *more)])
    with pytest.raises(SystemExit) as exit:
        sweep_layer_pairs.main()
    assert exit.value.code == 2 and not (tmp_path / "sweep").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sweep_layer_pairs.py: error: ") and message in line


def test_commands_of_the_page_are_good():
    """As far as they can be checked without the data and the reference of a user."""
    parsed = [
        parse_command({"run": Run, "report": Report}, words, SCRIPT)
        for words in page_commands("docs/sweeps.md")
    ]
    runs = [c for c in parsed if isinstance(c, Run)]
    assert len(runs) == 3 and len(parsed) == 4
    counts = []
    for c in runs[:2]:
        known = PairStudy(c.study)
        counts.append(len(known.points(c.grid)))
    pairs = [(s, t) for s in range(2, 10) for t in range(s + 3, 10)]  # of the 12 blocks of B/2
    assert counts == [3 * (1 + 2 * len(pairs)), 3 * (1 + 2 * 2)]


def test_it_starts_as_a_command(tmp_path):
    done = run(SCRIPT, "report", tmp_path, real=True)
    assert done.returncode == 2 and f"{tmp_path}: no sweep is there" in done.stderr
