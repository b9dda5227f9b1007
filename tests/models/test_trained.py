"""The one way from a checkpoint file to a network."""

import argparse
import hashlib
from pathlib import Path

import pytest
import torch
from random_sit import random_sit

import models
from models import SiT, SiT_models
from models.trained import hash_weights, load_trained
from sampling.checkpoint_settings import FLAGS, open_checkpoint, settings_in_force
from sampling.sample_config import ODE

SETTINGS = {
    "image_size": 8, "num_classes": 10, "vae": "none", "loss_type": "vanilla",
    "transport": {"path_type": "GVP", "prediction": "velocity", "sample_eps": 0.01},
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    """A tiny SiT of ten classes with random weights everywhere."""
    return random_sit(in_channels=1, num_classes=10)


@pytest.fixture
def saved(model, tmp_path):
    """A function that saves a checkpoint of the model and returns its path."""

    def save(**content) -> str:
        torch.save({"ema": model.state_dict()} | content, tmp_path / "a.pt")
        return str(tmp_path / "a.pt")

    return save


def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 1, 8, 8, generator=generator)
    return x, torch.tensor([0.1, 0.5, 0.8]), torch.tensor([0, 9, 10])


@torch.no_grad()
def test_everything_that_a_checkpoint_says(model, saved):
    path = saved(config=SETTINGS | {"vae": "./vae"}, codec="/data/vae", step=7, opt={})
    trained = load_trained(path)
    assert trained.arch == dict(
        name="SiT-Ti/2", input_size=8, in_channels=1, num_classes=10, learn_sigma=True
    )
    assert (trained.path, trained.kind, trained.step, trained.codec) == (
        path, "ema", 7, "/data/vae"
    )  # fmt: skip
    assert trained.settings == SETTINGS | {"vae": "/data/vae"} and trained.shape == (1, 8, 8)
    assert torch.equal(trained.network(*inputs()), model(*inputs()))
    assert trained.network.null_label == 10 and not trained.model.training
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    assert trained.weights_sha256 == digest.hexdigest()


@torch.no_grad()
def test_a_network_of_reversed_time_is_called_in_ours(model, saved):
    repa = model.state_dict() | {"projectors.0.weight": torch.zeros(2)}
    path = saved(ema=repa)
    trained = load_trained(path)
    x, t, y = inputs()
    assert trained.reversed_time and trained.settings == {} and trained.step is None
    assert torch.equal(trained.network(x, t, y), -model(x, 1 - t, y))
    assert trained.weights_sha256 == hash_weights(model.state_dict())
    turned = rf"REPA's network, whose time runs the other way; models\.trained.*\('{path}'\)"
    with pytest.raises(ValueError, match=turned):
        SiT.from_pretrained(path)


def test_names_that_the_package_has_not_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'models' has no attribute 'DiT'"):
        models.DiT  # noqa: B018


def test_building_the_network_draws_nothing(saved):
    trained = load_trained(saved())
    before = torch.get_rng_state()
    assert trained.model is trained.model
    assert torch.equal(torch.get_rng_state(), before)


def test_an_optimizer_beside_the_weights_is_not_read(saved):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    path = saved(opt={"exp_avg": torch.zeros(2**26, dtype=torch.uint8)})  # 64 MB
    before = resident()
    trained = load_trained(path)
    assert trained.model is not None and resident() - before < 2**25


@pytest.mark.parametrize("key", ["module.{}", "_orig_mod.module.{}", "blocks.{}._orig_mod.{}"])
def test_names_that_ddp_and_compile_leave_are_the_networks(key, model, tmp_path):
    def named(name: str) -> str:
        if not key.startswith("blocks"):
            return key.format(name)
        return key.format(*name.split(".", 2)[1:]) if name.startswith("blocks.") else name

    own = model.state_dict()
    torch.save({"ema": {named(name): value for name, value in own.items()}}, tmp_path / "a.pt")
    trained = load_trained(tmp_path / "a.pt")
    assert trained.weights.keys() == own.keys() and trained.weights_sha256 == hash_weights(own)


def test_a_table_without_a_null_label_is_known_by_the_settings_or_the_flag(tmp_path):
    plain = SiT_models["SiT-Ti/2"](8, in_channels=1, num_classes=10, class_dropout_prob=0)
    torch.save({"ema": plain.state_dict()}, tmp_path / "a.pt")
    torch.save({"ema": plain.state_dict(), "config": SETTINGS}, tmp_path / "b.pt")
    assert load_trained(tmp_path / "a.pt").arch["num_classes"] == 9
    for trained in (
        load_trained(tmp_path / "a.pt", num_classes=10),
        load_trained(tmp_path / "b.pt"),
    ):
        assert trained.arch["num_classes"] == 10 and trained.arch["class_dropout_prob"] == 0
        with pytest.raises(ValueError, match="no null label"):
            trained.network.null_label  # noqa: B018


@pytest.mark.parametrize("said", ["config", "args"])
@pytest.mark.parametrize("flag", ["--num-classes", "--image-size", "--path-type", "--model"])
def test_a_flag_that_contradicts_the_checkpoint_is_an_error(saved, said, flag):
    """11 classes with ten known ones would draw the null label as a class."""
    wrong = {"num_classes": 11, "image_size": 16, "path_type": "VP", "model": "SiT-Ti/1"}
    args = argparse.Namespace(**SETTINGS["transport"], image_size=8, num_classes=10)
    path = saved(**{said: SETTINGS if said == "config" else args})
    name = flag.strip("-").replace("-", "_")
    with pytest.raises(ValueError, match=f"{flag} {wrong[name]}: the checkpoint says"):
        open_checkpoint(ODE(ckpt=path, **{name: wrong[name]}))
    trained, settings = open_checkpoint(ODE(ckpt=path, num_classes=10, image_size=8))
    assert trained.arch["num_classes"] == settings["num_classes"] == 10


def test_settings_come_from_the_checkpoint_then_flags_then_the_official_ones(saved):
    trained = load_trained(saved(config=SETTINGS))
    assert settings_in_force(trained, dict.fromkeys(FLAGS)) == {
        "vae": "none", "path_type": "GVP", "prediction": "velocity", "sample_eps": 0.01,
        "model": "SiT-Ti/2", "num_classes": 10, "image_size": 8,
    }  # fmt: skip
    assert settings_in_force(trained, {"sample_eps": 0.1})["sample_eps"] == 0.1
    bare = load_trained(saved())
    assert settings_in_force(bare, {"prediction": "noise"}) == {
        "vae": "ema", "path_type": "Linear", "prediction": "noise", "sample_eps": None,
        "model": "SiT-Ti/2", "num_classes": 10,
    }  # fmt: skip
    latents = load_trained(saved(config=SETTINGS | {"vae": "ema"}))
    assert settings_in_force(latents, {"vae": "mse"})["vae"] == "mse"
    with pytest.raises(ValueError, match="--vae none: the checkpoint says ema"):
        settings_in_force(latents, {"vae": "none"})
