"""Sweeps of guidance: their cells, what is refused, and the report of fabricated results."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from launching import check, run
from random_sit import save_random_sit
from test_readme import commands

from evaluation.pixel_scores import load_images
from models import SiT_models
from runtime.command import parse_command
from sampling.presets import expand_preset
from sampling.sample_config import ODE, SDE
from scripts.guidance_sweep import Report, Run
from sweeps.cells import fingerprint, state, to_do, write_record
from sweeps.command_words import read_evaluate, read_sample
from sweeps.guidance_grid import GuidanceGrid, GuidancePoint, guidance_points
from sweeps.guidance_report import GuidanceFindings, lines_of, write_guidance_report
from sweeps.guidance_study import (
    REFUSED,
    GuidanceConfig,
    GuidanceStudy,
    check_guidable,
)
from sweeps.metric_names import known_metrics
from sweeps.sweep_folder import check_same_sweep, join_sweep, load_sweep

SAMPLE = "sample_ddp.py ODE --sampling-method euler --num-sampling-steps 3 --num-fid-samples 12"
EVALUATE = "python -m evaluation --ref digits"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny pixel-space SiT for 8 x 8 digits with random weights everywhere."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    stored = {"num_classes": 10, "vae": "none", "image_size": 8, "transport": {}}
    save_random_sit(path, {"step": 7, "config": stored}, in_channels=1, num_classes=10)
    return path


def config(checkpoint, folder, **changes):
    common = dict(sample=SAMPLE, evaluate=EVALUATE, folder=str(folder))
    return GuidanceConfig(**(common | dict(ckpt=str(checkpoint)) | changes))


def test_points_are_scales_times_intervals_and_one_without_guidance():
    points = guidance_points(GuidanceGrid((1, 1.5, 3, 1.5), ("0:1", "0.3:1")))
    assert [point.name for point in points] == ["1", "1.5", "1.5-on-0.3-1", "3", "3-on-0.3-1"]
    near = guidance_points(GuidanceGrid((1.5, 1.5000001), ("0.3:1", "0.30000001:1")))
    assert len({point.name for point in near}) == len(near) == 4
    assert [GuidancePoint.of(point.settings()) for point in points] == points


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (dict(scales=()), "--scales: none is given"),
        (dict(intervals=()), "--intervals: none is given"),
        (dict(scales=(1.5, 0.5)), "--scales 0.5: each must be at least 1"),
        (dict(scales=(float("nan"),)), "--scales nan"),
        (dict(intervals=("0.7:0.3",)), "--intervals 0.7:0.3: it must be two times LOW < HIGH"),
        (dict(intervals=("0.2:1.5",)), "--intervals 0.2:1.5: .* in \\[0, 1\\]"),
        (dict(intervals=("0.3",)), "--intervals 0.3: write LOW:HIGH"),
    ],
)
def test_grids_that_are_none_are_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        guidance_points(GuidanceGrid(**grid))


@pytest.mark.parametrize(
    "sample", [SAMPLE, "sample_ddp.py --preset repa-sde-interval", "sample_ddp.py SDE"]
)
def test_commands_of_a_cell_are_understood_as_its_point(checkpoint, tmp_path, sample):
    """Also when a preset says otherwise: what is swept wins."""
    study = GuidanceStudy(config(checkpoint, tmp_path, sample=sample))
    for point in guidance_points(GuidanceGrid((1, 1.1), ("0:1", "0.3:0.9"))):
        first, second = study.cell(point).commands
        words = expand_preset(list(first.words[1:]))
        asked = parse_command({"ODE": ODE, "SDE": SDE}, words)
        assert (asked.cfg_scale, asked.ckpt) == (point.scale, str(checkpoint))
        assert asked.guidance_interval == (None if point.interval == (0, 1) else (0.3, 0.9))
        same = dict(ckpt=None, out=None, cfg_scale=1.0, guidance_interval=None)
        plain = dataclasses.replace(study.sampling, **same)
        assert dataclasses.replace(asked, **same) == plain
        assert second.expects["cfg_scale"] == point.scale and second.expects["seed"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(sample=SAMPLE + " --cfg-scale 2"), "leave out --cfg-scale, which the sweep sets"),
        (dict(sample=SAMPLE + " --guidance_interval=0"), "leave out --guidance-interval"),
        (dict(sample=SAMPLE + " --ckpt x.pt"), "leave out --ckpt, and give it to the sweep"),
        (dict(sample=SAMPLE + " --colour red"), "--sample: sample_ddp.py does not take"),
        (dict(metrics=("fid", "classifier_score")), "--metrics fid: --evaluate gives pixel_frech"),
        (dict(ckpt="none.pt"), "checkpoint none.pt: no such file"),
        (dict(sample=SAMPLE + " --num-classes 1000"), "--num-classes 1000: the checkpoint says 10"),
    ],
)
def test_settings_that_will_not_do_are_refused_first(checkpoint, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        GuidanceStudy(config(checkpoint, tmp_path / "sweep", **changes))
    assert not (tmp_path / "sweep").exists()


def test_a_model_without_a_null_label_is_not_guided(tmp_path):
    model = SiT_models["SiT-Ti/2"](input_size=8, in_channels=1, class_dropout_prob=0, num_classes=5)
    stored = {"num_classes": 5, "vae": "none", "image_size": 8}
    torch.save({"ema": model.state_dict(), "config": stored}, tmp_path / "plain.pt")
    study = GuidanceStudy(config(tmp_path / "plain.pt", tmp_path / "sweep"))
    check_guidable(study, [GuidancePoint(1.0)])
    with pytest.raises(ValueError, match=r"--scales 1.5: .*plain.pt .* no null label"):
        check_guidable(study, [GuidancePoint(1.0), GuidancePoint(1.5)])


def test_a_folder_takes_more_points_but_no_other_sweep(checkpoint, tmp_path):
    folder = tmp_path / "sweep"
    study = GuidanceStudy(config(checkpoint, folder))
    join_sweep(study, [GuidancePoint(1.0), GuidancePoint(2.0)])
    join_sweep(study, [GuidancePoint(2.0), GuidancePoint(1.5, (0.3, 1.0))])
    loaded, cells = load_sweep(GuidanceStudy, folder)
    assert [cell.name for cell in cells] == ["1", "1.5-on-0.3-1", "2"]
    assert plain_recipe(loaded) == plain_recipe(study)
    other = GuidanceStudy(config(checkpoint, folder, sample=SAMPLE.replace("12", "13")))
    with pytest.raises(
        ValueError, match=r"--sample: num_fid_samples 12 there, 13 here.*another --"
    ):
        check_same_sweep(other)
    content = torch.load(checkpoint, weights_only=True)
    content["ema"]["pos_embed"] += 1
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"--ckpt: weights_sha256 .* there"):
        check_same_sweep(GuidanceStudy(config(tmp_path / "other.pt", folder)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="mine holds something else"):
        check_same_sweep(GuidanceStudy(config(checkpoint, tmp_path / "mine")))
    with pytest.raises(ValueError, match="no sweep is there"):
        load_sweep(GuidanceStudy, tmp_path / "mine")


def plain_recipe(study):
    return json.loads(json.dumps(study.recipe()))


VALUES = {  # point: pixel_frechet, classifier_score
    GuidancePoint(1.0): (0.6, 8.0),
    GuidancePoint(2.0): (0.4, 8.4),
    GuidancePoint(4.0): (0.9, 9.0),
    GuidancePoint(2.0, (0.3, 1.0)): (0.3, 8.2),
}


def fabricate(study, point, values):
    """A finished cell with these metrics."""
    cell = study.cell(point)
    cell.folder.mkdir(parents=True)
    evaluate = cell.commands[1]
    recipe = dict(evaluate.expects) | {"nfe": {"mean": 2.0}, "network_passes": {"mean": 4.0}}
    record = {"metrics": dict(zip(("pixel_frechet", "classifier_score"), values, strict=False))}
    path = cell.folder / "samples.metrics.json"
    path.write_text(json.dumps(record | {"recipe": recipe}))
    outputs = {path.name: fingerprint(path)}
    done = {"evaluate": {"words": [], "seconds": 3.0, "outputs": outputs}}
    write_record(cell, {"done": done, "failure": None})
    return cell


def test_report_has_every_number_and_names_the_best(checkpoint, tmp_path):
    study = GuidanceStudy(config(checkpoint, tmp_path / "sweep"))
    join_sweep(study, list(VALUES))
    for point, values in VALUES.items():
        assert state(fabricate(study, point, values)) == "finished"
    findings = GuidanceFindings(*load_sweep(GuidanceStudy, study.folder))
    path = write_guidance_report(findings)
    with open(study.folder / "guidance.csv") as file:
        rows = {
            GuidancePoint(float(row["scale"]), (float(row["low"]), float(row["high"]))): row
            for row in csv.DictReader(file)
        }
    by_point = {
        p: (float(r["pixel_frechet"]), float(r["classifier_score"])) for p, r in rows.items()
    }
    assert by_point == VALUES
    text = path.read_text()
    assert "| 2 | [0.3, 1] | 2 | 4 | 0.3 | 8.2 |" in text and "| 1 | - | 2 | 4 | 0.6 | 8 |" in text
    assert "Best pixel frechet ↓: scale 2 at t in [0.3, 1], 0.3." in text
    assert "not FID" in text
    assert (study.folder / "guidance.png").stat().st_size > 1000
    lines = {i: [p.scale for p in points] for i, points in lines_of(findings).items()}
    assert lines == {(0.0, 1.0): [1, 2, 4], (0.3, 1.0): [1, 2]}


def test_results_of_other_samples_do_not_count(checkpoint, tmp_path):
    study = GuidanceStudy(config(checkpoint, tmp_path / "sweep"))
    cell = fabricate(study, GuidancePoint(2.0), (0.4, 8.4))
    path = cell.folder / "samples.metrics.json"
    path.write_text(path.read_text().replace('"cfg_scale": 2.0', '"cfg_scale": 3.0'))
    assert [command.name for command in to_do(cell)] == ["sample", "evaluate"]


def test_a_metric_that_came_out_of_no_evaluation_is_named(checkpoint, tmp_path):
    study = GuidanceStudy(config(checkpoint, tmp_path / "sweep"))
    cell = fabricate(study, GuidancePoint(2.0), (0.4,))
    with pytest.raises(ValueError, match="--metrics classifier_score: the evaluation gave pixel_f"):
        GuidanceFindings(study, [cell])


def test_the_command_samples_evaluates_reports_and_then_has_nothing_to_do(checkpoint, tmp_path):
    images, labels, _ = load_images("digits")
    np.savez(tmp_path / "few.npz", arr_0=images[:100], labels=labels[:100])
    evaluate = f"python -m evaluation --pixels --ref {tmp_path / 'few.npz'}"
    words = ["run", "--ckpt", checkpoint, "--folder", tmp_path / "sweep", "--sample", SAMPLE]
    words += ["--evaluate", evaluate, "--scales", 1, 2, "--intervals", "0.4:1"]
    said = check("scripts/guidance_sweep.py", *words)
    folder = tmp_path / "sweep"
    assert "2 cells: 2 finished" in said and (folder / "guidance.png").exists()
    with open(folder / "guidance.csv") as file:
        rows = list(csv.DictReader(file))
    # Euler at t = 0 and 0.5, guided at the second
    assert [(r["scale"], r["nfe"], r["network_passes"]) for r in rows] == [
        ("1.0", "2.0", "2.0"),
        ("2.0", "2.0", "3.0"),
    ]
    assert [state(cell) for cell in load_sweep(GuidanceStudy, folder)[1]] == ["finished"] * 2
    assert not list(folder.glob("cells/*/samples.npz"))
    refused = run("scripts/guidance_sweep.py", *words, "--scales", 0.5)
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
    report = folder / "guidance.md"
    before = report.read_text()
    report.unlink()
    check("scripts/guidance_sweep.py", "report", folder, real=True)
    assert report.read_text() == before


def test_documented_commands_are_valid():
    calls = [args for args in commands("docs/sampling.md", "scripts/guidance_sweep.py")]
    runs = [args for args in calls if args[0] == "run"]
    assert runs and ["report"] in [args[:1] for args in calls]
    for args in runs:
        c = parse_command({"run": Run, "report": Report}, args)
        assert len(guidance_points(c.grid)) > 1
        read_sample(c.study.sample, REFUSED)
        _, evaluation = read_evaluate(c.study.evaluate)
        assert known_metrics(evaluation)
