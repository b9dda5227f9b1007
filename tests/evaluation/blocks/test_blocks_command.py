"""python -m evaluation blocks: its files, going on, any number of processes, what is refused."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
from launching import check, run
from PIL import Image
from probing import FEW, config, measured, probe, save_network

from data.sources import DigitsSource, list_fingerprint
from data.tiny_imagenet import TinyValidation
from evaluation.blocks.blocks_command import default_names, run_blocks
from evaluation.blocks.blocks_config import (
    AlignmentOptions,
    LinearOptions,
    RemovalOptions,
)
from evaluation.blocks.example_batches import Examples, View, label_target
from evaluation.blocks.held_out import with_split_folders
from evaluation.blocks.removal import Run, without
from evaluation.blocks.summary import summarise, summary_table
from models import SiT
from models.trained import load_trained
from transport import create_transport


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return tuple(save_network(folder / f"{name}.pt", i) for i, name in enumerate("ab"))


def test_files_and_going_on(checkpoints, tmp_path, capsys):
    out = tmp_path / "out"
    run_blocks(config(checkpoints, out))
    said = capsys.readouterr().out
    first, second = measured(out)
    assert (first["name"], second["name"]) == ("a", "b") and first["headline"] == "top1"
    assert np.array(first["values"]["top5"]).shape == (2, 3) and first["blocks"] == [2, 5, 8]
    assert first["recipe"]["lists"] == [list_fingerprint(DigitsSource())] * 2
    assert first["recipe"]["images"] == [30, 30] and first["chance"] == pytest.approx(1 / 3)
    assert first["checkpoint"]["weights_sha256"] == load_trained(checkpoints[0]).weights_sha256
    assert (out / "summary.md").read_text().strip() in said
    with Image.open(out / "linear.png") as picture:
        assert picture.width > 800

    probe(config(checkpoints, out, ("linear", "removal")))  # what is there is not made again
    said = capsys.readouterr().out
    assert "a: linear measured before" in said and "b: linear measured before" in said
    assert measured(out)[:2] == [first, second]
    assert [entry["probe"] for entry in measured(out)] == ["linear"] * 2 + ["removal"] * 2
    with open(out / "blocks.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ["a", "b", "a", "b"]
    assert float(lines[0]["mean"]) == pytest.approx(np.mean(first["values"]["top1"]), rel=1e-5)
    probe(config(checkpoints, out, seed=1))  # other numbers, which replace nothing
    assert len(measured(out)) == 6 and measured(out)[:2] == [first, second]
    assert not list(out.glob("*.part")) and not list(out.glob("*.lock"))


def test_removal_is_the_loss_of_the_network_without_the_block(checkpoints, tmp_path):
    lengths = RemovalOptions(run_lengths=(1, 2))
    probe(config(checkpoints[:1], tmp_path, ("removal",), samples=9, removal_options=lengths))
    (entry,) = measured(tmp_path)
    trained, source = load_trained(checkpoints[0]), DigitsSource()
    numbers = np.sort(np.random.default_rng((6, 0)).permutation(len(source))[:9]).tolist()
    examples = Examples(source, lambda x, *_: x.float() / 127.5 - 1, seed=0)
    (batch,) = examples.batches(numbers, label_target(torch.as_tensor(source.labels)))
    for k, time in enumerate(FEW["times"]):

        def loss(run, time=time):
            t, y = torch.full((9,), time), torch.full((9,), 10)
            with without(trained.model.blocks, run), torch.no_grad():
                losses = create_transport().training_losses(
                    trained.network, batch.x_1, dict(y=y), t=t, x0=batch.x_0
                )
            return losses["loss"].mean().item()

        whole = loss(Run(1, 0))
        assert entry["more"]["loss_of_the_whole"][k] == pytest.approx(whole, rel=1e-5)
        for name, length, starts in (("increase", 1, (2, 5, 8)), ("increase_2", 2, (2, 5))):
            expected = [loss(Run(start, length)) / whole - 1 for start in starts]
            assert entry["values"][name][k] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_samples_without_a_block_are_scored(checkpoints, tmp_path):
    saved = torch.load(checkpoints[0], weights_only=True)
    for name in ("weight", "bias"):  # gates of 0: the fifth block gives back what it gets
        saved["ema"][f"blocks.4.adaLN_modulation.1.{name}"].zero_()
    torch.save(saved, tmp_path / "idle.pt")
    scored = RemovalOptions(ref="digits", fid_samples=70, fid_steps=3)
    probe(config((str(tmp_path / "idle.pt"),), tmp_path / "out", ("removal",), samples=9,
                 blocks=(2, 5), removal_options=scored))  # fmt: skip
    loss, scores = measured(tmp_path / "out")
    assert loss["probe"] == "removal" and scores["probe"] == "removal fid"
    whole, (without_2, without_5) = scores["more"]["whole"], scores["more"]["without"]
    assert without_5 == whole and without_2["pixel_frechet"] != whole["pixel_frechet"]
    assert scores["values"]["pixel_frechet"] == [[each["pixel_frechet"] for each in
                                                  scores["more"]["without"]]]  # fmt: skip
    assert np.array(loss["values"]["increase"])[:, 1] == pytest.approx(0, abs=1e-7)


@pytest.mark.slow
def test_two_processes_give_the_same_numbers(checkpoints, tmp_path):
    plain = ["--ckpt", checkpoints[0], "--dataset-name", "digits", "--image-size", "8", "--vae",
             "none", "--num-workers", "0", "--batch-size", "16", "--samples", "60", "--times",
             "0.3", "0.9", "--blocks", "2", "5", "8"]  # fmt: skip
    heads = ["--linear", "repa", "--epochs", "2", "--head-batch", "15", "--head-lr", "0.05"]
    words = ("linear", "removal", "cka", "cknna")
    options = LinearOptions(linear="repa", epochs=2, head_batch=15, head_lr=0.05)
    runs = {
        "sums": (
            ["--probes", *words, "--encoder", checkpoints[1]],
            dict(probes=words, alignment_options=AlignmentOptions(encoder=checkpoints[1])),
        ),
        "heads": (["--probes", "linear", *heads], dict(linear_options=options)),
    }
    for name, (flags, same) in runs.items():
        out = tmp_path / name
        check("-m", "evaluation", "blocks", *plain, *flags, "--out", out / "two", processes=2)
        probe(config(checkpoints[:1], out / "one", **same))
        for two, one in zip(measured(out / "two"), measured(out / "one"), strict=True):
            assert two["key"] == one["key"]
            for key in one["values"]:
                expected = np.array(one["values"][key])
                np.testing.assert_allclose(two["values"][key], expected, rtol=1e-5, atol=1e-6)
            if name == "heads":
                losses = np.array(one["more"]["losses"])
                assert losses.shape == (2, 2, 3) and (losses[1] != losses[0]).all()
                np.testing.assert_allclose(two["more"]["losses"], losses, rtol=1e-4)


def test_networks_of_reversed_time_and_true_labels(checkpoints, tmp_path):
    """REPA's network sees 1 - t; with the images' labels, the class is read back."""
    weights = torch.load(checkpoints[0])["ema"]
    repa = tmp_path / "repa.pt"
    torch.save({"ema": weights | {"projectors.0.0.weight": torch.ones(1)}}, repa)
    for name, ckpt, time in (("a", checkpoints[0], 0.25), ("b", str(repa), 0.75)):
        c = config((ckpt,), tmp_path / name, ("removal",), samples=4, times=(time,))
        with pytest.MonkeyPatch.context() as patch:
            seen, forward = [], SiT.forward

            def listen(self, x, t, y, seen=seen, forward=forward):
                seen.append(t)
                return forward(self, x, t, y)

            patch.setattr(SiT, "forward", listen)
            probe(c)
        assert all((t == 0.25).all() for t in seen) and seen
    probe(config(checkpoints[:1], tmp_path / "c", labels="true", samples=200))
    top1 = np.array(measured(tmp_path / "c")[0]["values"]["top1"])
    assert top1.min() > 0.9


def test_views_are_mirrored_moved_and_drawn_anew():
    class Wide(DigitsSource):
        mirrors = True

    source = Wide()
    examples = Examples(source, lambda x, mirrored, draws: x.float(), seed=0, batch_size=50)
    target = label_target(torch.as_tensor(source.labels))

    def batch(view):
        return next(iter(examples.batches(range(50), target, view)))

    plain, one, again, other = (batch(v) for v in (None, View(0), View(0), View(1)))
    assert torch.equal(one.x_1, again.x_1) and torch.equal(one.x_0, again.x_0)
    assert not torch.equal(one.x_0, other.x_0) and not torch.equal(one.x_1, other.x_1)
    moved = [
        (torch.roll(a, (dy, dx), (1, 2))[:, 1:-1, 1:-1] == b[:, 1:-1, 1:-1]).all()
        for a, b in zip(plain.x_1, one.x_1, strict=True)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    assert sum(moved) >= 50  # each image is the plain one, moved by a pixel at most
    assert torch.equal(plain.target, torch.as_tensor(source.labels[:50]))


def test_tiny_imagenets_folders(tmp_path):
    root = tmp_path / "tiny"
    for label in ("n01", "n02"):
        (root / "train" / label / "images").mkdir(parents=True)
        for i in range(20):
            grey = np.full((8, 8, 3), 200 * (label == "n02") + i, np.uint8)
            Image.fromarray(grey).save(root / "train" / label / "images" / f"{i}.png")
    (root / "val" / "images").mkdir(parents=True)
    for i, label in enumerate(("n02", "n01", "n02")):
        grey = np.full((8, 8, 3), 200 * (label == "n02") + 5, np.uint8)
        Image.fromarray(grey).save(root / "val" / "images" / f"val_{i}.png")
        with open(root / "val" / "val_annotations.txt", "a") as file:
            file.write(f"val_{i}.png\t{label}\t0\t0\t8\t8\n")
    network = save_network(tmp_path / "rgb.pt", 0, in_channels=3)
    c = dataclasses.replace(
        config((network,), tmp_path / "out", times=(1.0,)), dataset_name=None, data_path=str(root)
    )
    assert with_split_folders(c).val_data_path == str(root / "val")
    run_blocks(c)
    (entry,) = measured(tmp_path / "out")
    assert entry["recipe"]["images"] == [40, 3] and entry["recipe"]["classes"] == 2
    assert (np.array(entry["values"]["top1"]) == 1).all()
    (root / "val" / "images" / "val_1.png").unlink()
    with pytest.raises(ValueError, match=r"line 2 of val_annotations\.txt names no image"):
        TinyValidation("--val-data-path", str(root / "val"), 8)


def test_bad_input_is_refused_before_any_work(checkpoints, tmp_path):
    no_null = save_network(tmp_path / "no-null.pt", 0, class_dropout_prob=0)
    stored = {"config": {"num_classes": 10}}  # without it, the last label passes for the null label
    torch.save(torch.load(no_null) | stored, no_null)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "blocks.json").write_text("[1]")
    (tmp_path / "one" / "only").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "only" / "a.png")
    rgb = save_network(tmp_path / "rgb.pt", 0, in_channels=3)
    for said, changes in {
        "--ckpt: give a checkpoint": dict(ckpt=()),
        "--probes: give a probe": dict(probes=()),
        "--probes linear linear: one of them is given twice": dict(probes=("linear", "linear")),
        "no null label.*--labels true gives it": dict(ckpt=(no_null,)),
        "gone.pt: no such file": dict(ckpt=("gone.pt",)),
        "--blocks 9: checkpoint .* has 8 blocks": dict(blocks=(9,)),
        "--times 1.5: it must be in": dict(times=(1.5,)),
        "--times: give a time": dict(times=()),
        "--samples 39: at least 40 are needed": dict(samples=39),
        "--names x: 1 names for 2 checkpoints": dict(names=("x",)),
        "--epochs is of trained heads": dict(linear_options=LinearOptions(epochs=3)),
        "--linear has no effect without --probes linear": dict(
            probes=("removal",), linear_options=LinearOptions(linear="repa")
        ),
        "--run-lengths 8: the network has 8 blocks": dict(
            probes=("removal",), removal_options=RemovalOptions(run_lengths=(8,))
        ),
        "--probes cka: --encoder says what blocks": dict(probes=("cka",)),
        "--neighbours 60: 60 images have no so many": dict(
            probes=("cknna",),
            alignment_options=AlignmentOptions(encoder=checkpoints[0], neighbours=60),
        ),
        "--by-token is of cka": dict(
            probes=("cknna",),
            alignment_options=AlignmentOptions(encoder=checkpoints[0], by_token=True),
        ),
        "--encoder .*rgb.pt: it sees|takes 3 channels of side 8": dict(
            probes=("cka",), alignment_options=AlignmentOptions(encoder=rgb)
        ),
        "its blocks.json is not a record of this program": dict(out=str(tmp_path / "taken")),
        "the data has 1: use data with two classes": dict(
            ckpt=(rgb,), dataset_name=None, data_path=str(tmp_path / "one")
        ),
    }.items():
        c = dataclasses.replace(config(checkpoints, tmp_path / "out"), **changes)
        with pytest.raises(ValueError, match=said):
            run_blocks(c)
    assert not (tmp_path / "out").exists()


def test_a_bad_flag_is_one_line():
    done = run("-m", "evaluation", "blocks", "--ckpt", "a.pt", "--probes", "linear")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "error: checkpoint a.pt: no such file" in done.stderr


def test_names_and_summary():
    assert default_names(["r/A/checkpoints/1.pt", "r/B/checkpoints/1.pt"]) == ["A", "B"]
    assert default_names(["r/A/checkpoints/1.pt", "r/A/checkpoints/2.pt"]) == ["A 1", "A 2"]
    assert default_names(["x.pt", "x.pt"]) == ["x x (1)", "x x (2)"]
    entries = [
        {"name": name, "headline": "top1", "blocks": [1, 2], "percent": True,
         "values": {"top1": [row]}}
        for name, row in (("a", [0.2, 0.3]), ("b", [0.4, 0.2]), ("b", [0.5, 0.3]))
    ]  # fmt: skip
    first, second = summarise(entries)
    assert first["relative"] == 0 and second["mean"] == pytest.approx(0.35)
    assert second["relative"] == pytest.approx(0.4)
    assert second["deviation"] == pytest.approx(0.05 * 2**0.5)
    assert (second["highest_block"], second["highest"]) == (1, pytest.approx(0.45))
    assert "| linear | top1 | b | 35.00 % ± 7.07 % | +40.0 % | 1: 45.00 % |" in summary_table(
        {"linear": entries}
    )
