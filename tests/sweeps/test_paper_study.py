"""The study of the paper's rows: cells, shared runs, what is refused, dry runs of every recipe."""

import dataclasses
import json

import pytest
import torch
from launching import ROOT
from paper_results import REFERENCE, finish_cell

from models import SiT_models
from sweeps.cells import state, to_do
from sweeps.paper_cost import estimate_left
from sweeps.paper_points import PaperConfig, PaperGrid, PaperPoint
from sweeps.paper_rows import all_rows
from sweeps.paper_settings import Added
from sweeps.paper_study import PaperStudy
from sweeps.pool import PoolConfig
from sweeps.slurm import ClusterConfig
from sweeps.slurm_nodes import ways_to_launch
from sweeps.study import commands_left, run_sweep
from sweeps.sweep_folder import join_sweep, load_sweep

TRAINED = [name for name, row in all_rows().items() if not row.checkpoint]


@pytest.fixture
def latents(tmp_path):
    """A folder that says it holds latents of ImageNet."""
    folder = tmp_path / "latents"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"image_size": 256, "num_classes": 1000}))
    return str(folder)


@pytest.fixture
def study(tmp_path):
    """study(**changes) -> a study with a reference."""

    def make(**changes) -> PaperStudy:
        (tmp_path / REFERENCE).touch()
        given = dict(ref=str(tmp_path / REFERENCE), folder=str(tmp_path / "out"))
        return PaperStudy(PaperConfig(**(given | changes)))

    return make


@pytest.fixture
def weights(tmp_path):
    """Path of a checkpoint of the narrow B."""
    torch.manual_seed(0)
    model = SiT_models["SiT-B-narrow/2"](input_size=8, num_classes=1000)
    stored = {"num_classes": 1000, "image_size": 64}
    torch.save({"ema": model.state_dict(), "config": stored}, tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


def cells_of(study, names, latents, **grid):
    points = study.points(PaperGrid(tuple(names), data_path=latents, **grid))
    return [study.cell(point) for point in points]


def run_of(cell) -> str:
    return cell.path(cell.commands[0].outputs[0]).parents[1].name


def test_every_recipe_is_run_dry(study, latents):
    """Each has train, sample and evaluate, for every variant and point of a curve."""
    one = study(repa_features="features")
    for name in TRAINED:
        row = all_rows()[name]
        cells = cells_of(one, [name], latents)
        assert len(cells) == len(row.variants)
        for cell in cells:
            kinds = [command.words[0] for command in to_do(cell)]
            each = ["train.py", "sample_ddp.py", "-m"]
            assert kinds == each * max(1, len(row.curve))
            train = cell.commands[0].words
            assert ("--repa-features" in train) == ("repa" in row.name)
        assert any("GPU hours on H100s" in line for line in one.cost(cells, 1))


def test_every_recipe_has_a_miniature(study):
    small = study(ref=None, miniature=True)
    small.check_inputs()
    for name, row in all_rows().items():
        cells = cells_of(small, [name], None)
        assert len(cells) == min(3, len(row.variants))
        for cell in cells:
            words = [command.words for command in cell.commands]
            programs = ["-m", "train.py"] if "repa" in name else ["train.py"]
            stages = [w[0] for w in words[len(programs) - 1 :]]
            assert [w[0] for w in words[: len(programs)]] == programs
            assert stages == ["train.py", "sample_ddp.py", "-m"] * min(3, max(1, len(row.curve)))
            assert "--data-path" not in words[-3] and "digits" in words[-1]


def test_rows_share_the_runs_that_differ_in_length_alone(study, latents):
    one = study()
    runs = {
        name: run_of(cells_of(one, [name], latents)[0]) for name in TRAINED if "repa" not in name
    }
    assert runs["xl2-layersync"] == runs["xl2-200ep-layersync"] == runs["xl2-sde-curve"]
    assert runs["xl2-vanilla"] == runs["xl2-200ep-vanilla"]
    assert runs["xl2-800ep-layersync"] == runs["xl2-sde"] == runs["xl2-guidance"]
    assert runs["xl2-800ep-layersync"] == runs["xl2-guidance-interval"]
    assert runs["b2-t-range"] == runs["b2-layersync"]  # its first variant is the row itself
    assert len(set(runs.values())) == len(runs) - 7
    (seed,) = cells_of(one, ["b2-layersync"], latents, seeds=(3,))
    assert run_of(seed).endswith("seed3") and run_of(seed) != runs["b2-layersync"]
    scheduled = study(added=Added(train="--lr-schedule cosine"))
    short, long = cells_of(scheduled, ["xl2-layersync", "xl2-200ep-layersync"], latents)
    assert run_of(short) != run_of(long)  # their steps differ from the first one on


def test_hours_of_a_shared_run_count_once(study, latents):
    one = study()
    cells = cells_of(one, ["xl2-sde", "xl2-800ep-layersync", "xl2-guidance"], latents)
    lines = estimate_left(one, cells)
    assert lines[0] == "7 cells, 0 of them finished"
    assert "xl2-sde-seed0: 730 GPU hours of training, 5.9 of sampling" in lines
    assert "xl2-800ep-layersync-seed0: 0 GPU hours of training, 12 of sampling" in lines
    assert lines[-1].startswith("all that is left: 810 GPU hours on H100s at 28% of their peak")


def test_dry_runs_show_commands_that_can_be_copied(study, latents, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    one = study()
    grid = PaperGrid(("b2-layersync", "b2-weights"), data_path=latents)
    pool, here = PoolConfig(processes_per_cell=8), ClusterConfig()
    assert run_sweep(PaperStudy, one.config, grid, pool=pool, cluster=here, dry_run=True) == 0
    said = capsys.readouterr().out
    assert said.count("torchrun --standalone --nproc_per_node=8 train.py") == 5
    assert said.count("# train 400000: as above") == 1 and "/../" not in said
    assert f"--results-dir {tmp_path}/out/runs --run-name SiT-B-2-layer_sync-" in said
    assert not (tmp_path / "out").exists()
    cells = cells_of(one, ["b2-layersync"], latents)
    monkeypatch.chdir(ROOT)
    nodes = ClusterConfig("slurm", nodes=2, gpus_per_node=8, partition="gpu", hours=12.5)
    said = "\n".join(commands_left(cells, ways_to_launch(PoolConfig(), nodes)[0]))
    options = "--nodes=2 --time=12:30:00 --gpus-per-node=8 --partition=gpu"
    assert said.count(f"sbatch {options} scripts/slurm.sbatch") == 3


def test_finished_rows_have_nothing_to_do_and_others_go_on(study, latents):
    one = study()
    join_sweep(one, one.points(PaperGrid(("xl2-layersync",), data_path=latents)))
    (cell,) = cells_of(one, ["xl2-layersync"], latents)
    finish_cell(cell, {400_000: 11.0})
    assert state(cell) == "finished"
    join_sweep(one, one.points(PaperGrid(("b2-layersync",), seeds=(0, 1), data_path=latents)))
    loaded, cells = load_sweep(PaperStudy, one.folder)
    assert [c.name for c in cells] == [
        "xl2-layersync-seed0", "b2-layersync-seed0", "b2-layersync-seed1",
    ]  # fmt: skip
    assert [state(c) for c in cells] == ["finished", "waiting", "waiting"]
    assert loaded.recipe() == one.recipe()
    (longer,) = cells_of(one, ["xl2-200ep-layersync"], latents)
    assert [command.name for command in to_do(longer)] == [
        "train 1000000", "sample 1000000", "evaluate 1000000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (dict(rows=("b2-layrsync",)), r"did you mean b2-layersync"),
        (dict(rows=("b2-layersync",), data_path=None), r"b2-layersync: --data-path is missing"),
        (dict(rows=("b2-layersync",), data_path="./no"), r"--data-path ./no: no such folder"),
        (dict(rows=("sit-xl2-sde",)), r"give --from-checkpoint SiT-XL-2-256x256.pt"),
        (dict(rows=("xl2-repa",)), r"holds latents, .* give --repa-features FOLDER"),
        (dict(rows=("xl2-sde-curve",), checkpoint="a.pt"), r"a curve has many checkpoints"),
        (dict(rows=("b2-weights",), checkpoint="a.pt"), r"its variants are trained differently"),
        (dict(rows=("xl2-sde",), checkpoint="no.pt"), r"no.pt: no such file"),
    ],
)
def test_rows_that_cannot_be_run_are_refused(study, latents, grid, message):
    with pytest.raises(ValueError, match=message):
        study().points(PaperGrid(**(dict(data_path=latents) | grid)))


def test_data_of_another_kind_is_refused(study, latents, tmp_path):
    manifest = tmp_path / "latents" / "manifest.json"
    for there, message in (
        (
            {"image_size": 512, "num_classes": 1000},
            "latents of 512 pixels, and b2-layersync has 256",
        ),
        (
            {"image_size": 256, "num_classes": 10},
            "latents of 10 classes, and b2-layersync has 1000",
        ),
        ({"image_size": 256}, "manifest.json is not of a latent cache"),
    ):
        manifest.write_text(json.dumps(there))
        with pytest.raises(ValueError, match=message):
            cells_of(study(), ["b2-layersync"], latents)
    manifest.unlink()
    for name in ("cat", "dog"):
        (tmp_path / "latents" / name).mkdir()
    with pytest.raises(ValueError, match="2 folders of classes, and b2-layersync trains on 1000"):
        cells_of(study(), ["b2-layersync"], latents)


def test_inputs_are_refused_first(study, tmp_path):
    with pytest.raises(ValueError, match=r"--ref is missing: the file VIRTUAL_imagenet256"):
        study(ref=None).check_inputs()
    with pytest.raises(ValueError, match=r"--ref no.npz: no such file"):
        study(ref="no.npz").check_inputs()
    with pytest.raises(ValueError, match=r"--ref .*: a miniature is scored in pixel space"):
        study(miniature=True).check_inputs()
    small = study(ref=None, miniature=True)
    for given, flag in ((dict(data_path="x"), "--data-path x"),
                        (dict(checkpoint="x"), "--from-checkpoint x")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{flag}: a miniature trains its own"):
            small.points(PaperGrid(("b2-layersync",), **given))


def test_results_of_another_recipe_are_not_written_over(study, latents):
    one = study()
    (cell,) = cells_of(one, ["b2-layersync"], latents)
    finish_cell(cell, {400_000: 30.0})
    changed = dataclasses.replace(one.config, added=Added(sample="--num-fid-samples 1000"))
    with pytest.raises(
        ValueError,
        match=r"seed0 holds results of another recipe \(sample num_fid_samples the default there, "
        r"1000 here\): give another --folder",
    ):
        cells_of(PaperStudy(changed), ["b2-layersync"], latents)
    (cell.folder / "cell.json").write_text("{")
    with pytest.raises(ValueError, match=r"cell.json: damaged; remove"):
        cells_of(one, ["b2-layersync"], latents)


def test_published_weights_start_at_sampling(study, weights):
    """A row that was made narrow, as its weights are."""
    one = study(added=Added(train="--model SiT-B-narrow/2"))
    (point,) = one.points(PaperGrid(("b2-vanilla",), checkpoint=weights))
    cell = one.cell(point)
    assert [command.words[0] for command in cell.commands] == ["sample_ddp.py", "-m"]
    assert cell.commands[0].words[-6:] == (
        "--ckpt", weights, "--global-seed", "0", "--out", "{cell}/samples.npz",
    )  # fmt: skip
    assert cell.commands[1].expects["weights_sha256"] == point.weights
    assert point.weights[:8] in cell.name and PaperPoint(**point.settings()) == point
    with pytest.raises(ValueError, match="model SiT-B-narrow/2, and b2-vanilla has SiT-B/2"):
        study().points(PaperGrid(("b2-vanilla",), checkpoint=weights))
