"""Settings as they were in force: typed, resolved, and read back."""

import dataclasses
import json

import pytest
from launching import TINY_DIGITS

import train
from training.config import OptimConfig, TrainConfig
from training.methods.dispersive import DispersiveConfig
from training.settings_record import resolved_settings, restore


def test_what_is_left_to_the_model_has_its_value_there():
    values = resolved_settings(TrainConfig(model="SiT-XL/2"))
    assert (values["encoder_depth"], values["gt_encoder_depth"]) == (8, 16)
    assert values["reg_weight"] == 0.2 and values["pairs"] == "8 -> 16"
    assert resolved_settings(TrainConfig(loss_type="sra"))["sra_teacher_depth"] == 20
    assert resolved_settings(TrainConfig(loss_type="dispersive"))["dispersive_depth"] == 28
    several = TrainConfig(loss_type="multiple_sync", multi_blocks_match="[(4,7),(3,8)]")
    assert resolved_settings(several)["pairs"] == "4 -> 7, 3 -> 8"


def test_values_are_plain_and_nothing_is_unset():
    values = resolved_settings(TrainConfig())
    assert {type(value) for value in values.values()} <= {bool, int, float, str}
    assert values["lr"] == 1e-4 and values["compile"] is False and values["epochs"] == 80


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(loss_type="dispersive", dispersive=DispersiveConfig(dispersive_tau=0.5)),
        TrainConfig(optim=OptimConfig(betas=(0.8, 0.9)), data_path="x", max_steps=3),
    ],
)
def test_settings_are_read_back_from_json(config):
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    assert restore(stored) == config
    assert restore(stored | {"no_longer": 1, "in_force": {"lr": 3}}) == config
    del stored["optim"]  # of a version before there was such a group
    assert restore(stored) == dataclasses.replace(config, optim=OptimConfig())


def test_config_json_and_tensorboard_show_what_ran(tmp_path):
    training = train.Training(
        dataclasses.replace(TINY_DIGITS, results_dir=str(tmp_path), run_name="run", max_steps=1)
    )
    training.run()
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["encoder_depth"] is None  # as the command line had it
    assert stored["in_force"]["encoder_depth"] == 2 and stored["in_force"]["reg_weight"] == 0.3
    (hparams,) = (tmp_path / "run").rglob("hparams.yml")
    assert "gt_encoder_depth: 5\n" in hparams.read_text()
