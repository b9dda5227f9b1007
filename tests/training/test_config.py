"""Flags: the original's spellings, the paper's defaults, and one clear line for what is wrong."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from launching import ROOT

from data.fitting import fitted
from layersync import suggest_pair
from runtime.command import parse_command
from training.building import decided_here
from training.checks import check_train_config
from training.config import EngineConfig, OptimConfig, SaveConfig, TrainConfig
from training.methods.layer_sync import layer_sync_settings
from training.parallel import resolve_precision
from training.settings_record import differences


def parse(*args, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", *args])
    return parse_command(TrainConfig)


def test_original_flags_are_accepted(monkeypatch):
    line = (
        "--dataset_name imagenet-1k --results-dir out --model SiT-B/2 --image-size 256 "
        "--num-classes 1000 --encoder-depth 4 --gt-encoder-depth 7 --epochs 80 "
        "--global-batch-size 256 --global-seed 1 --vae mse --num-workers 8 --log-every 10 "
        "--ckpt-every 100 --sample-every 50 --cfg-scale 1.5 --reg-weight 0.5 "
        "--loss-type layer_sync --cache-dir /data --wandb --wandb-run-name name "
        "--ckpt x.pt --fine-tune --path-type GVP --prediction noise --loss-weight likelihood "
        "--sample-eps 0.001 --train-eps 0.002"
    )
    c = parse(*line.split(), monkeypatch=monkeypatch)
    real = importlib.util.find_spec  # as if wandb were there
    known = lambda name, *more: name if name == "wandb" else real(name, *more)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", known)
    check_train_config(c)
    assert c.dataset_name == "imagenet-1k" and c.wandb and c.fine_tune
    assert c.transport.train_eps == 0.002 and c.transport.loss_weight == "likelihood"
    assert layer_sync_settings(c) == ([(4, 7)], 0.5)


def test_loss_weight_none_is_a_value(monkeypatch):
    c = parse("--data-path", "x", "--loss-weight", "None", monkeypatch=monkeypatch)
    assert c.transport.loss_weight is None


@pytest.mark.parametrize(
    ("model", "pair", "weight"),
    [
        ("SiT-XL/2", (8, 16), 0.2),
        ("SiT-L/4", (8, 18), 0.2),
        ("SiT-B/2", (4, 7), 0.3),
        ("SiT-S/8", (4, 7), 0.3),
    ],
)
def test_defaults_are_the_papers(model, pair, weight):
    assert layer_sync_settings(TrainConfig(model=model)) == ([pair], weight)


@pytest.mark.parametrize(
    ("model", "depth"), [("SiT-XL/2", 28), ("SiT-L/2", 24), ("SiT-B/2", 12), ("SiT-Ti/2", 8)]
)
def test_train_py_takes_the_pair_that_is_suggested(model, depth):
    ((student, teacher),), _ = layer_sync_settings(TrainConfig(model=model))
    assert (student, teacher) == suggest_pair(depth)


def test_multiple_sync_and_vanilla_settings():
    c = TrainConfig(loss_type="multiple_sync", multi_blocks_match="[(4,7),(3,8)]", model="SiT-B/2")
    assert layer_sync_settings(c) == ([(4, 7), (3, 8)], 0.3)
    assert layer_sync_settings(TrainConfig(loss_type="vanilla")) == ([], 0.0)
    watched = TrainConfig(loss_type="vanilla", encoder_depth=2, gt_encoder_depth=5)
    assert layer_sync_settings(watched) == ([(2, 5)], 0.0)


def test_flags_of_the_original_baselines_are_accepted():
    vanilla = TrainConfig(loss_type="vanilla", reg_weight=0.2, multi_blocks_match="[]")
    check_train_config(vanilla)
    assert layer_sync_settings(vanilla) == ([], 0.0)
    assert layer_sync_settings(TrainConfig(reg_weight=0.0)) == ([(8, 16)], 0.0)


def test_one_depth_alone_goes_with_the_models_other():
    assert layer_sync_settings(TrainConfig(encoder_depth=6)) == ([(6, 16)], 0.2)
    assert layer_sync_settings(TrainConfig(gt_encoder_depth=20)) == ([(8, 20)], 0.2)


def test_wandb_must_be_installed_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--wandb: .* pip install wandb"):
        check_train_config(TrainConfig(wandb=True))


@pytest.mark.parametrize("text", ["[]", "()"])
def test_an_empty_list_of_pairs_is_refused(text):
    with pytest.raises(ValueError, match="--multi-blocks-match: LayerSync needs at least one"):
        layer_sync_settings(TrainConfig(loss_type="multiple_sync", multi_blocks_match=text))


def test_training_defaults_are_the_papers():
    c = TrainConfig()
    assert (c.optim.lr, c.optim.ema_decay, c.global_batch_size) == (1e-4, 0.9999, 256)
    elsewhere = fitted(TrainConfig(data_path="no such folder"))
    assert (elsewhere.vae, elsewhere.image_size) == ("ema", 256)
    assert (c.transport.path_type, c.transport.prediction) == ("Linear", "velocity")


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("both name the data", dict(data_path="x")),
        ("--image-size 0", dict(image_size=0)),
        ("--global-batch-size -1", dict(global_batch_size=-1)),
        ("--max-steps 0", dict(max_steps=0)),
        ("--ckpt-every 0", dict(saving=SaveConfig(ckpt_every=0))),
        ("--global-seed -1", dict(global_seed=-1)),
        ("--probe-every -1", dict(probe_every=-1)),
        (
            "--probe-every 5: streamed images cannot be chosen",
            dict(probe_every=5, streaming=True),
        ),
        ("--lr 0", dict(optim=OptimConfig(lr=0))),
        ("--ema-decay 1", dict(optim=OptimConfig(ema_decay=1))),
        ("--cfg-scale 0.5", dict(cfg_scale=0.5)),
        ("--reg-weight -1: it must be at least 0", dict(reg_weight=-1)),
        (
            "--encoder-depth 4 has no effect",
            dict(encoder_depth=4, loss_type="multiple_sync", multi_blocks_match="[(4,7)]"),
        ),
        ("--multi-blocks-match .* has no effect", dict(multi_blocks_match="[(1,2)]")),
        ("needs --multi-blocks-match", dict(loss_type="multiple_sync")),
        ("--fine-tune needs --ckpt", dict(fine_tune=True)),
        ("both name a checkpoint", dict(resume="y.pt", ckpt="x.pt")),
    ],
)
def test_wrong_values_are_refused(message, changes):
    with pytest.raises(ValueError, match=message):
        check_train_config(TrainConfig(**(dict(dataset_name="digits") | changes)))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--dataset-nam", "digits"], "--dataset-name"),
        (["--model"], "--model"),
        (["--epochs", "many"], "many"),
        (["--loss-type", "layersync"], "layer_sync"),
    ],
)
def test_unknown_flags_and_values_exit_with_a_hint(args, said, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit:
        parse(*args, monkeypatch=monkeypatch)
    assert exit.value.code == 2
    printed = capsys.readouterr()
    assert said in printed.err + printed.out


def test_settings_and_their_checks_do_without_torch():
    """This way --help and a mistyped flag are answered at once."""
    modules = "training.config, training.checks, training.methods.methods, data.data_config"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_differences_name_flags_that_shape_the_run_only():
    import dataclasses

    stored = dataclasses.asdict(
        TrainConfig(model="SiT-S/2", optim=OptimConfig(lr=1e-3), epochs=3, results_dir="x")
    )
    stored["transport"]["prediction"] = "noise"
    assert differences(TrainConfig(), stored) == [
        "--model: SiT-S/2 there, SiT-XL/2 here",
        "--prediction: noise there, velocity here",
        "--lr: 0.001 there, 0.0001 here",
    ]


@pytest.mark.parametrize(
    ("given", "there", "expected"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_compilation_is_on_where_it_can_be_unless_a_flag_decides(
    monkeypatch, given, there, expected
):
    monkeypatch.setattr("training.building.can_compile", lambda: there)
    config = TrainConfig(engine=EngineConfig(compile=given))
    assert decided_here(config).engine.compile is expected


def test_to_compile_on_a_gpu_without_triton_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr("models.compiling.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--compile: on this GPU it takes the package triton"):
        decided_here(TrainConfig(engine=EngineConfig(compile=True)))
    assert decided_here(TrainConfig()).engine.compile is False
    told = capsys.readouterr().err
    assert "not compiled, so slower: that takes the package triton" in told


@pytest.mark.parametrize(("major", "expected"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_bf16_is_not_chosen_where_a_gpu_only_emulates_it(monkeypatch, major, expected):
    """V100 and T4 compute bf16 in float32, slower than float32 itself; torch calls it supported."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda device: SimpleNamespace(major=major)
    )
    monkeypatch.setattr("torch.cuda._check_bf16_tensor_supported", lambda device: True)
    assert torch.cuda.is_bf16_supported()
    assert resolve_precision("auto") == expected
