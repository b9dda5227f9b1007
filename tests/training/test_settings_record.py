"""Settings as they were in force: typed, resolved, and read back."""

import dataclasses
import json
import os

import pytest
from launching import TINY_DIGITS

import train
from training.checks import check_train_config
from training.config import OptimConfig, TrainConfig
from training.methods.dispersive import DispersiveConfig
from training.runs import claim_folder, different_settings, run_folder
from training.settings_record import (
    in_force,
    resolved_settings,
    restore,
    run_record,
    settings_of_record,
)


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
    assert values["lr"] == 1e-4 and values["fsdp"] is False and values["epochs"] == 80


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
    assert restore(run_record(config)) == config


def test_settings_in_force_are_those_of_the_same_run():
    left, given = TrainConfig(model="SiT-B/2"), in_force(TrainConfig(model="SiT-B/2"))
    assert (given.encoder_depth, given.gt_encoder_depth, given.reg_weight) == (4, 7, 0.3)
    assert given.dataset_name == "imagenet-1k" and in_force(given) == given
    check_train_config(given)
    assert run_folder(given) == run_folder(left)
    for one, other in ((left, given), (given, left)):
        assert different_settings(one, dataclasses.asdict(other)) == []
        assert different_settings(one, run_record(other)) == []
    other = dataclasses.asdict(dataclasses.replace(given, reg_weight=0.1))
    assert different_settings(left, other) == ["--reg-weight: 0.1 there, 0.3 here"]
    unlike = in_force(TrainConfig(loss_type="sra", model="SiT-B/2"))
    assert unlike.sra.sra_teacher_depth and in_force(unlike) == unlike


def test_flags_of_a_run_are_taken_from_its_record():
    config = TrainConfig(
        model="SiT-B/2", data_path="x", ckpt="a.pt", run_name="run", resume="latest",
        optim=OptimConfig(betas=(0.8, 0.9)),
    )  # fmt: skip
    taken = settings_of_record(json.loads(json.dumps(run_record(in_force(config)))))
    assert taken["encoder_depth"] == 4 and taken["betas"] == [0.8, 0.9]
    assert not {"ckpt", "resume", "run_name", "results_dir", "config", "made_by"} & set(taken)
    tuned = dataclasses.replace(config, resume=None, fine_tune=True)
    assert settings_of_record(run_record(tuned))["ckpt"] == "a.pt"
    grouped = dataclasses.asdict(config) | {"in_force": resolved_settings(config), "old": 1}
    assert settings_of_record(json.loads(json.dumps(grouped))) == taken
    assert settings_of_record({"lr": 1.0}) is None  # a file by hand, whose keys are all checked


def test_config_json_and_tensorboard_show_what_ran(tmp_path):
    training = train.Training(
        dataclasses.replace(TINY_DIGITS, results_dir=str(tmp_path), run_name="run", max_steps=1)
    )
    training.run()
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["encoder_depth"] == 2 and stored["reg_weight"] == 0.3
    assert stored["precision"] == "fp32" and stored["lr"] == 0.01
    (hparams,) = (tmp_path / "run").rglob("hparams.yml")
    assert "gt_encoder_depth: 5\n" in hparams.read_text()


def test_a_folder_that_is_not_utf8_is_refused_before_it_is_made(tmp_path):
    """TensorBoard can open no file there."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ValueError, match=r"caf.udce9': not UTF-8; give another --run-name"):
        claim_folder(TrainConfig(), folder)
    assert not folder.exists()
