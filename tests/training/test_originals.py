"""Runs of the originals' train.py go on here, and ours in theirs."""

import argparse
import copy
import dataclasses

import pytest
import torch
from launching import TINY_DIGITS, check, run

from models.checkpoint_file import read_checkpoint
from training.config import OptimConfig
from training.loop import Training
from training.originals import original_args
from training.tracking import read_log
from transport import create_transport

STEPS = 3
CONFIG = dataclasses.replace(
    TINY_DIGITS, loss_type="vanilla", max_steps=STEPS, optim=OptimConfig(lr=1e-3, ema_decay=0.9)
)
FLAGS = [  # what their file does not tell, or tells of other data
    "--dataset-name", "digits", "--vae", "none", "--ema-decay", 0.9, "--log-every", 1,
    "--num-workers", 0, "--sample-every", 0,
]  # fmt: skip


def build(training_model):
    """A network, its average and an optimizer of all parameters, as their train.py makes them."""
    model = copy.deepcopy(training_model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    return model, copy.deepcopy(model).eval(), optimizer


def step(model, average, optimizer, images, seed: int) -> float:
    """A step of theirs, on draws of a seed; returns the loss."""
    torch.manual_seed(seed)
    labels = torch.randint(10, (len(images),))
    loss = create_transport().training_losses(model, images, dict(y=labels))["loss"].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
            ours.mul_(0.9).add_(theirs, alpha=0.1)
    return loss.item()


def save(path, model, average, optimizer, **other):
    """A file in the layout of their train.py, with a command line of LayerSync's."""
    args = argparse.Namespace(
        model="SiT-Ti/2", image_size=8, num_classes=10, global_batch_size=8, path_type="Linear",
        prediction="velocity", loss_weight=None, train_eps=None, sample_eps=None, vae="ema",
        loss_type="vanilla", encoder_depth=8, gt_encoder_depth=8, reg_weight=0.2, epochs=1400,
        multi_blocks_match=[], dataset_name="imagenet-1k",
    )  # fmt: skip
    vars(args).update(other)
    state = {"model": model.state_dict(), "ema": average.state_dict()}
    torch.save(state | {"opt": optimizer.state_dict(), "args": args}, path)
    return path


@pytest.fixture(scope="module")
def images():
    return torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, images):
    """Their run after three steps: model, average, optimizer."""
    folder = tmp_path_factory.mktemp("initial")
    network = Training(dataclasses.replace(CONFIG, results_dir=str(folder))).network
    parts = build(network)
    for seed in range(STEPS):
        step(*parts, images, seed)
    return parts


def test_their_run_goes_on_here(theirs, images, tmp_path):
    """The next step from the same draws is the one that they would make."""
    path = save(tmp_path / "theirs.pt", *theirs)
    new = dataclasses.replace(CONFIG, results_dir=str(tmp_path), run_name="a", max_steps=9)
    training = Training(dataclasses.replace(new, resume=str(path)))
    assert training.step == STEPS
    there = [len(group["params"]) for group in theirs[2].state_dict()["param_groups"]]
    here = [len(group["params"]) for group in training.update.optimizer.param_groups]
    assert there == [here[0] + 1], "theirs holds the frozen embedding"

    theirs = copy.deepcopy(theirs)
    loss = step(*theirs, images, seed=7)
    torch.manual_seed(7)
    labels = torch.randint(10, (8,))
    losses = training.transport.training_losses(training.network.train(), images, dict(y=labels))
    losses["loss"].mean().backward()
    training.update(training.step)
    assert losses["loss"].mean().item() == pytest.approx(loss, rel=1e-6)
    for mine, their in ((training.network, theirs[0]), (training.parallel.ema, theirs[1])):
        for key, value in their.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[key], value, rtol=1e-5, atol=1e-7)


def test_our_run_goes_on_there(theirs, tmp_path):
    """As their lines read it: four entries of a dict, the last one with attributes."""
    Training(dataclasses.replace(CONFIG, results_dir=str(tmp_path), run_name="a")).run()
    path = tmp_path / "a" / "checkpoints" / f"{STEPS:07d}.pt"
    content = torch.load(path, map_location=lambda storage, _: storage)  # which trusts nothing
    model, average, optimizer = build(theirs[0])
    model.load_state_dict(content["model"])
    average.load_state_dict(content["ema"])
    optimizer.load_state_dict(content["opt"])
    args = content["args"]
    assert (args.model, args.image_size, args.num_classes) == ("SiT-Ti/2", 8, 10)
    assert (args.path_type, args.prediction, args.loss_weight) == ("Linear", "velocity", None)
    assert (args.loss_type, args.reg_weight, args.wandb, args.ckpt) == ("vanilla", 0.0, False, None)

    own = read_checkpoint(path)["opt"]["state"]
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        assert (name == "pos_embed") == (not state)
        for key, value in state.items():
            assert torch.equal(value, own[name][key]) and state["step"] == STEPS
    again = save(tmp_path / "theirs.pt", model, average, optimizer)
    resumed = dataclasses.replace(CONFIG, results_dir=str(tmp_path), run_name="b", max_steps=9)
    training = Training(dataclasses.replace(resumed, resume=str(again)))
    mine = training.parallel.state(training.update.optimizer)["opt"]["state"]
    assert all(torch.equal(mine[name][key], own[name][key]) for name in own for key in own[name])


def test_attributes_of_a_run_with_pairs():
    args = original_args(dataclasses.replace(CONFIG, loss_type="layer_sync"))
    assert (args.encoder_depth, args.gt_encoder_depth, args.reg_weight) == (2, 5, 0.3)
    several = dict(loss_type="multiple_sync", multi_blocks_match="[(2,5),(3,7)]")
    assert original_args(dataclasses.replace(CONFIG, **several)).multi_blocks_match == [
        (2, 5),
        (3, 7),
    ]


def test_the_command_continues_and_says_what_differs(theirs, tmp_path):
    path = save(tmp_path / "theirs.pt", *theirs)
    go_on = ["train.py", *FLAGS, "--max-steps", 5, "--results-dir", tmp_path, "--ckpt", path]
    said = check(*go_on, "--run-name", "a")
    assert "steps 3 to 5" in said
    rows = [row for row in read_log(tmp_path / "a" / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [4, 5]
    other = ["--loss-type", "layer_sync", "--lr", 2e-3, "--global-batch-size", 4]
    refused = run(*go_on, *other, "--run-name", "b")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    for difference in (
        "--loss-type: vanilla there, layer_sync here",
        "--global-batch-size: 8 there, 4 here",
        "--lr: 0.001 there, 0.002 here",
    ):
        assert difference in refused.stderr


def test_pairs_count_where_they_act(theirs, tmp_path):
    path = save(tmp_path / "theirs.pt", *theirs, loss_type="layer_sync")
    config = dataclasses.replace(CONFIG, loss_type="layer_sync", results_dir=str(tmp_path))
    with pytest.raises(ValueError, match="--encoder-depth: 8 there, 2 here"):
        Training(dataclasses.replace(config, resume=str(path)))
    same = save(
        tmp_path / "same.pt", *theirs,
        loss_type="layer_sync", encoder_depth=2, gt_encoder_depth=5, reg_weight=0.3,
    )  # fmt: skip
    assert Training(dataclasses.replace(config, resume=str(same), max_steps=9)).step == STEPS


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (
            lambda c: c["opt"]["param_groups"][0].update(params=[0, 1]),
            r"is not its model's: 2 parameters there, 92 in the model",
        ),
        (lambda c: c["opt"]["state"].pop(5), "no state of t_embedder.mlp.2.weight"),
        (
            lambda c: c["opt"]["state"][5].update(exp_avg=torch.zeros(2)),
            "a tensor as large as its weights",
        ),
        (lambda c: c["opt"].pop("state"), "its optimizer is not its model's"),
        (
            lambda c: c["model"].update({"projectors.0.weight": torch.zeros(2)}),
            "REPA's network, whose time runs the other way",
        ),
        (lambda c: c.pop("opt"), "to start a new run from its weights: --ckpt"),
    ],
)
def test_what_cannot_go_on_is_refused(theirs, tmp_path, change, refusal):
    path = save(tmp_path / "a.pt", *theirs)
    content = read_checkpoint(path)
    change(content)
    if "projectors.0.weight" in content["model"]:
        content["ema"]["projectors.0.weight"] = torch.zeros(2)
    torch.save(content, path)
    with pytest.raises(ValueError, match=refusal):
        Training(dataclasses.replace(CONFIG, results_dir=str(tmp_path), resume=str(path)))
