"""A study: its commands, its folder, what may be added to it and what not, and its cost."""

import dataclasses
import json

import pytest
import torch

from runtime.command import parse_command
from sampling.sample_config import ODE, SDE
from sweeps.cells import to_do
from sweeps.operations import network_passes
from sweeps.pair_cost import estimate, forward_flops
from sweeps.pair_grid import PairPoint
from sweeps.pair_study import PairStudy
from sweeps.sweep_folder import check_same_sweep, join_sweep, load_study, load_sweep
from training.config import TrainConfig

PAIR = PairPoint((2, 5), 0.3, 7)
VANILLA = PairPoint(None, 0.0, 7)


def training_of(cell) -> TrainConfig:
    words = cell.commands[0].words
    assert words[0] == "train.py"
    return parse_command(TrainConfig, list(words[1:]), "train.py")


def test_cells_of_a_seed_differ_in_the_loss_alone(study_config):
    study = PairStudy(study_config())
    pair, vanilla = (training_of(study.cell(point)) for point in (PAIR, VANILLA))
    assert (pair.loss_type, pair.encoder_depth, pair.gt_encoder_depth) == ("layer_sync", 2, 5)
    assert pair.reg_weight == 0.3 and pair.global_seed == 7 and pair.resume == "latest"
    same = dict(loss_type="vanilla", encoder_depth=None, gt_encoder_depth=None, reg_weight=None)
    assert dataclasses.replace(pair, **same) == vanilla
    assert pair.max_steps == 4 and pair.epochs >= 4  # never ends before its steps are done


def test_samples_have_the_seed_of_their_run(study_config):
    train, sample, evaluate = PairStudy(study_config()).cell(PAIR).commands
    assert sample.words[sample.words.index("--global-seed") + 1] == "7"
    assert sample.inputs == train.outputs == ("train/checkpoints/0000004.pt",)
    assert evaluate.expects["seed"] == 7 and evaluate.expects["step"] == 4
    assert evaluate.discards == sample.outputs
    kept = PairStudy(study_config(keep_samples=True)).cell(PAIR)
    assert kept.commands[-1].discards == ()


def test_all_checkpoints_are_sampled_and_evaluated(study_config):
    cell = PairStudy(study_config(checkpoints="all")).cell(PAIR)
    assert [c.name for c in to_do(cell)] == [
        "train", "sample 2", "evaluate 2", "sample 4", "evaluate 4",
    ]  # fmt: skip


def test_a_folder_keeps_its_study_and_takes_more_points(study_config):
    study = PairStudy(study_config())
    join_sweep(study, [VANILLA])
    join_sweep(PairStudy(study_config(keep_samples=True)), [VANILLA, PAIR])
    _, cells = load_sweep(PairStudy, study.folder)
    assert [cell.name for cell in cells] == ["vanilla-seed7", "2-5-lambda0.3-seed7"]
    assert cells[1].recipe == study.cell(PAIR).recipe


def test_settings_that_shape_no_number_may_change(study_config):
    join_sweep(PairStudy(study_config()), [VANILLA])
    base = study_config().base.replace("--num-workers 0", "--num-workers 3")
    assert check_same_sweep(PairStudy(study_config(base=base))) == [plain_settings(VANILLA)]


def plain_settings(point: PairPoint) -> dict:
    return json.loads(json.dumps(point.settings()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("base", "--max-steps 4", "--max-steps 6"), r"--base: max_steps 4 there, 6 here"),
        (("base", "--vae none", "--vae none --lr 1"), r"--base: lr the default there, 1.0 here"),
        (("sample", "32", "64"), r"--sample: num_fid_samples 32 there, 64 here"),
        (
            ("evaluate", "digits", "digits --array x"),
            r"--evaluate: array the default there, x here",
        ),
        (("checkpoints", "last", "all"), r"--checkpoints: steps \[4\] there, \[2, 4\] here"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(study_config, change, message):
    study = PairStudy(study_config())
    join_sweep(study, [VANILLA])
    name, old, new = change
    changed = getattr(study_config(), name).replace(old, new)
    with pytest.raises(ValueError, match=rf"--folder .*sweep holds a sweep of other .*{message}"):
        join_sweep(PairStudy(study_config(**{name: changed})), [PAIR])
    assert len(load_study(PairStudy, study.folder)[1]) == 1


def test_other_folders_are_refused(study_config, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something else: give another one"):
        check_same_sweep(PairStudy(study_config()))
    with pytest.raises(ValueError, match="no sweep is there"):
        load_study(PairStudy, tmp_path)
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not the sweep.json of a study"):
        load_study(PairStudy, tmp_path)


def test_operations_are_those_of_the_matrix_products(study_config):
    """Counted by hand for SiT-Ti/2 on 8 x 8 pixels: 16 tokens, 64 wide, 8 blocks."""
    tokens, width, depth = 16, 64, 8
    block = (
        tokens * 12 * width**2 + 2 * tokens**2 * width + 6 * width**2
    )  # layers, attention, adaLN
    ends = tokens * 4 * width + tokens * 8 * width + 2 * width**2
    embedding = 256 * width + width**2
    assert forward_flops(PairStudy(study_config())) == 2 * (depth * block + ends + embedding)


class CountingNetwork(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, t, y=None):
        self.calls += 1
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    "config",
    [
        ODE(sampling_method="heun2", num_sampling_steps=7),
        ODE(sampling_method="euler", num_sampling_steps=7),
        ODE(sampling_method="rk4", num_sampling_steps=4),
        SDE(num_sampling_steps=7),
        SDE(sampling_method="Heun", num_sampling_steps=7, last_step=None),
    ],
)
def test_network_passes_are_those_of_the_sampler(config):
    from sampling.solver import make_solver
    from transport import Sampler, create_transport

    network = CountingNetwork()
    make_solver(Sampler(create_transport()), config)(torch.zeros(1, 1, 2, 2), network)
    assert network_passes(config) == network.calls
    assert network_passes(dataclasses.replace(config, cfg_scale=2.0)) == 2 * network.calls


def test_adaptive_solvers_have_no_known_number():
    assert network_passes(ODE(sampling_method="dopri5")) is None


def test_cost_names_what_is_left_and_the_time_it_takes(made_up):
    values = {(None, 0.0, 0): 1.0, ((2, 5), 0.3, 0): None, ((3, 6), 0.3, 0): None}
    study, cells = made_up(values)
    lines = "\n".join(estimate(study, cells, parallel=2))
    assert "3 cells, 1 of them finished" in lines
    assert "4 steps x 8 images" in lines and "32 images x 1 network passes" in lines
    assert "a finished cell took 10 s on average: about 10 s left, 2 at a time" in lines
