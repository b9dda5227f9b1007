"""scripts/compare.py: curves, grids and settings of runs made by hand, and the command as it is."""

import dataclasses
import json

import numpy as np
import pytest
from launching import TINY_DIGITS
from PIL import Image

from runtime.png import save_grid
from sweeps.run_page import comparison_page
from sweeps.run_pictures import panels_of
from sweeps.run_records import (
    common_grids,
    differing_settings,
    read_run,
    read_runs,
    same_noise,
    smoothed,
    weight_for,
)


def make_run(folder, steps=20, grids=(10, 20), scale=1.0, fid=True, **changes):
    """A folder as training leaves it, with a loss of scale / step."""
    folder.mkdir(parents=True)
    config = dataclasses.replace(TINY_DIGITS, **changes)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    rows = [
        {"step": s, "velocity_loss": scale / s, "similarity_2_5": 1 - 1 / s, "grad_norm": 2.0}
        for s in range(1, steps + 1)
    ]
    rows += [
        {"step": s, "eval_fid": value} for s, value in ((10, 30.0), (15, 9.0), (20, 12.0)) if fid
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in grids:
        (folder / "samples").mkdir(exist_ok=True)
        save_grid(np.full((4, 8, 8, 1), step, np.uint8), folder / "samples" / f"{step:07d}.png")
    return folder


@pytest.fixture
def two(tmp_path):
    make_run(tmp_path / "a", loss_type="vanilla", encoder_depth=2, gt_encoder_depth=5)
    make_run(tmp_path / "b", grids=(10,), scale=0.5)
    return read_runs([str(tmp_path / "a"), str(tmp_path / "b")])


def test_smoothing_is_the_weighted_mean_of_the_past():
    values, w = [3.0, 1.0, 4.0, 1.0, 5.0], 0.7
    for n in range(1, 6):
        weights = np.array([w ** (n - 1 - i) for i in range(n)])
        expected = (weights * values[:n]).sum() / weights.sum()
        assert smoothed(values, w)[n - 1] == pytest.approx(expected)
    assert smoothed(values, 0.0) == values


def test_a_short_log_is_smoothed_less_so_that_its_average_ends_where_it_does():
    assert [weight_for(n, None) for n in (1, 20, 40, 200, 9000)] == [0, 0, 0.5, 0.9, 0.9]
    assert weight_for(24, 0.7) == 0.7
    falling = [float(n) for n in range(40, 0, -1)]
    assert smoothed(falling, weight_for(40, None))[-1] == pytest.approx(2)  # 1 line behind
    assert smoothed(falling, 0.9)[-1] > 9


def test_what_differs_is_shown_as_it_was_in_force(two):
    table = differing_settings(two)
    assert table == {
        "loss_type": ["vanilla", "layer_sync"],
        "reg_weight": [0.0, 0.3],
    }


def test_grids_are_of_the_last_step_that_all_have(two):
    assert {name: path.stem for name, path in common_grids(two).items()} == dict.fromkeys(
        "ab", "0000010"
    )
    assert same_noise(two)


def test_other_seeds_are_other_noise(tmp_path, two):
    runs = [two[0], read_run(make_run(tmp_path / "c", global_seed=1))]
    assert not same_noise(runs)
    assert "**not** of the same noise" in comparison_page(runs, "x.png", common_grids(runs), 0.9)


def test_panels_are_of_what_was_logged(tmp_path, two):
    assert list(panels_of(two)) == [
        "velocity loss", "similarity of the paired blocks", "gradient norm", "FID",
    ]  # fmt: skip
    assert "FID" not in panels_of([read_run(make_run(tmp_path / "d", fid=False))])


def test_runs_of_one_name_are_told_apart(tmp_path):
    for parent in "xy":
        make_run(tmp_path / parent / "run")
    runs = read_runs([str(tmp_path / parent / "run") for parent in "xy"])
    assert [run.name for run in runs] == ["x/run", "y/run"]
    with pytest.raises(ValueError, match="twice"):
        read_runs([str(tmp_path / "x/run"), str(tmp_path / "y/../x/run")])


def test_the_command_writes_a_picture_and_a_page_that_shows_it(fork_server, two, tmp_path):
    words = ["scripts/compare.py", "a", "b", "--out", "out", "--smoothing", 0]
    process = fork_server.start(words, folder=tmp_path)
    assert process.wait() == 0, process.stderr
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "](compare.png)" in page and "the same noise" in page
    assert "| a | 20 | 0.05 | 0.95 | 2 | 12 (best 9 at 15) |" in page
    assert "| `--reg-weight` | 0.0 | 0.3 |" in page
    with Image.open(tmp_path / "out" / "compare.png") as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "none"], "none: no config.json there; give the folder of a training run"),
        (["a", "--smoothing", "1"], "--smoothing 1.0: it must be in [0, 1)"),
        ([], "give the folder of a run"),
    ],
)
def test_what_cannot_be_compared_is_refused(monkeypatch, capsys, two, tmp_path, words, message):
    from runtime.command import parse_command
    from scripts.compare import CompareConfig, main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(parse_command(CompareConfig, words))
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
