"""A pair proposed from a checkpoint: its files, its determinism, and what is refused."""

import dataclasses
import json

import pytest
import torch
from launching import TINY_DIGITS
from PIL import Image

import train
from evaluation.blocks.pair_ranking import allowed_pairs
from models import SiT_models
from models.checkpoint_file import read_checkpoint
from models.trained import load_trained
from scripts.suggest_pair import PairConfig, Suggestion, main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Make the checkpoint of a run of four steps on the digits."""
    settings = dict(results_dir=str(tmp_path_factory.mktemp("run")), loss_type="vanilla")
    training = train.Training(dataclasses.replace(TINY_DIGITS, **settings))
    training.run()
    return str(training.folder / "checkpoints" / "0000004.pt")


def propose(checkpoint, out, **changes):
    changes = dict(probe_samples=200, times=(0.2, 0.8), out=str(out)) | changes
    main(PairConfig(ckpt=checkpoint, **changes))
    return json.loads(out.read_text())


def test_proposal_tables_and_picture(checkpoint, tmp_path, capsys):
    record = propose(checkpoint, tmp_path / "pairs.json")
    said = capsys.readouterr().out
    student, teacher = record["proposed"]
    assert (student, teacher) in allowed_pairs(8)
    assert f"--encoder-depth {student} --gt-encoder-depth {teacher}" in said
    assert "judged by 100, means over t = 0.2, 0.8" in said and "chance    10.0 %" in said
    assert "2 or more apart. 6 pairs:" in said and "vanilla run" not in said
    assert len(record["pairs"]) == len(allowed_pairs(8)) and len(record["reasons"]) >= 3
    assert torch.tensor(record["accuracy"]).shape == (2, 8)
    assert torch.tensor(record["similarity"]).shape == (2, 8, 8)
    for pair in record["pairs"]:
        s, t = pair["pair"]
        accuracy = torch.tensor(record["accuracy"], dtype=torch.float64).mean(dim=0)
        gain = (accuracy[t - 1] - accuracy[s - 1]).item()
        assert pair["gain"] == pytest.approx(gain, abs=1e-9)
    with Image.open(tmp_path / "pairs.png") as picture:
        assert picture.width > 800
    assert record["weights_sha256"] == load_trained(checkpoint).weights_sha256  # as samples have it
    assert len(record["weights_sha256"]) == 64


def test_the_same_command_gives_the_same_numbers(checkpoint, tmp_path):
    few = dict(probe_samples=40, times=(0.8,))
    first, again = (propose(checkpoint, tmp_path / f"{i}.json", **few) for i in (0, 1))
    other = propose(checkpoint, tmp_path / "2.json", seed=1, **few)
    assert first == again and first["accuracy"] != other["accuracy"]


def test_weights_without_settings_take_the_flags(checkpoint, tmp_path):
    ema = {"ema": read_checkpoint(checkpoint)["ema"]}
    torch.save(ema, tmp_path / "official.pt")
    flags, few = dict(dataset_name="digits", image_size=8, vae="none"), dict(probe_samples=40)
    record = propose(str(tmp_path / "official.pt"), tmp_path / "a.json", **flags, **few)
    expected = propose(checkpoint, tmp_path / "b.json", **few)
    assert record["accuracy"] == expected["accuracy"] and record["step"] is None


def test_a_network_of_reversed_time_is_turned_around(checkpoint, tmp_path):
    """REPA's time: what it sees at t here is its own 1 - t."""
    ema = read_checkpoint(checkpoint)["ema"]
    torch.save({"ema": ema | {"projectors.0.0.weight": torch.ones(1)}}, tmp_path / "repa.pt")
    flags = dict(dataset_name="digits", image_size=8, vae="none")
    turned = Suggestion(PairConfig(ckpt=str(tmp_path / "repa.pt"), **flags))
    seen = []
    turned.one.model.t_embedder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    turned.one.network(torch.zeros(1, 1, 8, 8), torch.tensor([0.2]), torch.tensor([10]))
    assert seen[0].item() == pytest.approx(0.8)


def folders(root, names, images, size=8):
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(images):
            Image.new("RGB", (size, size), (i, 0, 0)).save(root / name / f"{i}.png")
    return str(root)


def test_bad_input_is_refused(checkpoint, tmp_path):
    torch.save({"ema": {"a": torch.zeros(3)}}, tmp_path / "foreign.pt")
    torch.save({"ema": 3}, tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("no weights")
    rgb = folders(tmp_path / "rgb", ["a", "b"], 1)
    settings = read_checkpoint(checkpoint)
    streamed = settings | {"config": settings["config"] | {"streaming": True}}
    torch.save(streamed, tmp_path / "streamed.pt")
    plain = SiT_models["SiT-Ti/2"](8, in_channels=1, num_classes=10, class_dropout_prob=0)
    unlabelled = {"ema": plain.state_dict(), "config": settings["config"]}
    torch.save(unlabelled, tmp_path / "no-null.pt")
    for said, changes in {
        "gone.pt: no such file": dict(ckpt="gone.pt"),
        "foreign.pt: not the weights of a SiT": dict(ckpt=tmp_path / "foreign.pt"),
        "empty.pt: no state dict in it": dict(ckpt=tmp_path / "empty.pt"),
        "text.pt: truncated, or not a PyTorch file": dict(ckpt=tmp_path / "text.pt"),
        "streamed.pt: its run streamed its data": dict(ckpt=tmp_path / "streamed.pt"),
        "no null label": dict(ckpt=tmp_path / "no-null.pt"),
        "--probe-samples 10: at least 40 are needed": dict(probe_samples=10),
        "--data-path /no/such: no such folder": dict(data_path="/no/such"),
        "encodes images of 1 channels|takes 1 channels of side 8": dict(data_path=rgb),
        "both name the data": dict(data_path=rgb, dataset_name="digits"),
        r"--image-size 16: the checkpoint says 8": dict(image_size=16),
        r"--times 0.5 1.5: one or more numbers in": dict(times=(0.5, 1.5)),
        r"--times : one or more numbers": dict(times=()),
        "--out a.txt: the name must end in .json": dict(out="a.txt"),
    }.items():
        changes = {key: str(v) if key == "ckpt" else v for key, v in changes.items()}
        with pytest.raises(ValueError, match=said):
            Suggestion(PairConfig(**(dict(ckpt=checkpoint) | changes)))


@pytest.fixture(scope="module")
def rgb_checkpoint(tmp_path_factory):
    """Weights alone, of an untrained network of RGB images of 8 x 8 pixels."""
    path = tmp_path_factory.mktemp("rgb") / "rgb.pt"
    torch.save({"ema": SiT_models["SiT-Ti/2"](8, in_channels=3, num_classes=10).state_dict()}, path)
    return dict(ckpt=str(path), image_size=8, vae="none")


def test_one_class_and_few_images_are_refused(rgb_checkpoint, tmp_path):
    for name, classes, said in (
        ("one", {"a": 50}, "a linear probe tells classes apart, and the data has 1"),
        ("few", {"a": 50, "b": 19}, "of the 2 classes of the data, 1 have that many"),
    ):
        for label, images in classes.items():
            folders(tmp_path / name, [label], images)
        with pytest.raises(ValueError, match=said):
            Suggestion(PairConfig(**rgb_checkpoint, data_path=str(tmp_path / name)))


def test_unreadable_data_and_broken_weights_end_in_one_line(rgb_checkpoint, tmp_path, capsys):
    data = folders(tmp_path / "data", ["a", "b"], 20)
    flags = dict(data_path=data, times=(0.5,), out=str(tmp_path / "pairs.json"))
    (tmp_path / "data" / "a" / "3.png").write_bytes(b"not an image")
    with pytest.raises(SystemExit) as ended:
        main(PairConfig(**rgb_checkpoint, **flags))
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "3.png: not a readable image" in said

    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "a" / "3.png")
    weights = read_checkpoint(rgb_checkpoint["ckpt"])["ema"]
    weights["blocks.0.attn.proj.weight"].fill_(float("nan"))
    weights["blocks.0.adaLN_modulation.1.bias"].fill_(1)
    torch.save({"ema": weights}, tmp_path / "nan.pt")
    with pytest.raises(SystemExit) as ended:
        main(PairConfig(**(rgb_checkpoint | dict(ckpt=str(tmp_path / "nan.pt"))), **flags))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "nan.pt: ema blocks.0.attn.proj.weight holds NaN" in said
    assert not (tmp_path / "pairs.json").exists()


def test_a_bad_flag_ends_in_one_line(checkpoint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(PairConfig(ckpt=checkpoint, probe_samples=7))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "error: --probe-samples 7: at least 40 are needed" in said


@pytest.mark.parametrize("out", ["/dev/null/a.json", "/proc/1/a.json", "{}/mine.json", "{}/d.json"])
def test_an_output_that_cannot_be_is_refused_before_the_work(checkpoint, tmp_path, capsys, out):
    (tmp_path / "mine.json").write_text("[1, 2]")
    (tmp_path / "d.json").mkdir()
    with pytest.raises(SystemExit) as exit:
        main(PairConfig(ckpt=checkpoint, out=out.format(tmp_path)))
    said = capsys.readouterr()
    assert exit.value.code == 2 and "--out" in said.err and not said.out
    assert (tmp_path / "mine.json").read_text() == "[1, 2]"
