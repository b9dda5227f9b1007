"""Weights survive conversion, and both commands read the result."""

import argparse
import dataclasses

import pytest
import torch
from launching import check

from models import SiT_models
from models.checkpoint_file import read_checkpoint
from models.trained import load_trained, weights_of
from scripts.convert_checkpoint import Conversion, convert
from training.config import TrainConfig


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return SiT_models["SiT-Ti/2"](input_size=8, in_channels=1, num_classes=10).state_dict()


@pytest.mark.parametrize("kind", ["ema", "model"])
def test_official_checkpoint_round_trip(tmp_path, weights, kind):
    zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
    repa = {f"module.{key}": value for key, value in weights.items()}
    content = {"model": zeros, "ema": zeros, "args": argparse.Namespace(lr=1e-4)}
    torch.save(content | {kind: repa}, tmp_path / "a.pt")
    target = tmp_path / "a.safetensors"
    arch = convert(Conversion(str(tmp_path / "a.pt"), str(target), kind))
    assert arch["name"] == "SiT-Ti/2" and arch["num_classes"] == 10
    assert load_trained(target).kind == kind == load_trained(target, kind).kind
    again = weights_of(read_checkpoint(target), target)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert load_trained(target).kind == kind  # which every record of its samples and scores holds
    assert load_trained(target, kind).kind == kind


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_settings_of_the_run_are_kept(tmp_path, weights, real):
    config = dataclasses.asdict(
        TrainConfig(dataset_name="digits", image_size=8, num_classes=10, vae="none")
    )
    torch.save({"ema": weights, "config": config}, tmp_path / "a.pt")
    said = check(
        "scripts/convert_checkpoint.py", tmp_path / "a.pt", tmp_path / "a.safetensors", real=real
    )
    assert "SiT-Ti/2, 10 classes" in said
    stored = read_checkpoint(tmp_path / "a.safetensors")["config"]
    assert stored["image_size"] == 8 and stored["transport"]["path_type"] == "Linear"


def test_bad_input_is_refused_and_writes_nothing(tmp_path, weights):
    torch.save({"ema": {"a": torch.zeros(3)}}, tmp_path / "foreign.pt")
    torch.save(weights, tmp_path / "a.pt")
    (tmp_path / "there.safetensors").write_text("mine")
    for source, target, said in (
        ("gone.pt", "b.safetensors", "gone.pt: no such file"),
        ("foreign.pt", "b.safetensors", "not the weights of a SiT"),
        ("a.pt", "b.pt", "must end in .safetensors"),
        ("a.pt", "there.safetensors", "exists"),
        ("a.pt", "a.pt/b.safetensors", "is a file, where a folder is needed"),
        ("a.pt", "/proc/1/b.safetensors", "nothing can be written in /proc/1"),
    ):
        with pytest.raises(ValueError, match=said):
            convert(Conversion(str(tmp_path / source), str(tmp_path / target)))
    assert (tmp_path / "there.safetensors").read_text() == "mine"
    assert not (tmp_path / "b.safetensors").exists()


def test_truncated_safetensors_are_refused(tmp_path, weights):
    torch.save(weights, tmp_path / "a.pt")
    target = tmp_path / "a.safetensors"
    convert(Conversion(str(tmp_path / "a.pt"), str(target)))
    content = target.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="truncated, or not safetensors"):
        read_checkpoint(target)
