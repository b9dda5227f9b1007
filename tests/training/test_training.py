"""`Training` in this process: what is refused before anything is written, and starts of a run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import TINY_DIGITS, save_tiny_vae
from PIL import Image

import train
from models.checkpoint_file import read_checkpoint
from scripts.cache_latents import CacheConfig
from scripts.cache_latents import main as cache_latents
from training.checkpoint import save_checkpoint
from training.config import OptimConfig, SaveConfig, TransportConfig
from training.tracking import read_log

SHORT = dataclasses.replace(TINY_DIGITS, global_batch_size=4, max_steps=2, optim=OptimConfig())
MULTIPLE = dict(loss_type="multiple_sync", multi_blocks_match="[(1,3),(2,6)]")


def config(tmp_path, **changes):
    return dataclasses.replace(SHORT, results_dir=str(tmp_path / "results"), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two steps."""
    training = train.Training(config(tmp_path_factory.mktemp("run"), run_name="run"))
    training.run()
    return training


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("--model SiT-B/3: no such model; choose from .*SiT-B/2", dict(model="SiT-B/3")),
        (r"--gt-encoder-depth: pair \(5, 5\): stu", dict(encoder_depth=5, gt_encoder_depth=5)),
        (r"\(6, 2\): .*did you mean \(2, 6\)", dict(encoder_depth=6, gt_encoder_depth=2)),
        (r"\(4, 9\): .*the model has 8 blocks", dict(encoder_depth=4, gt_encoder_depth=9)),
        (r"\(0, 3\): .*the model has 8 blocks", dict(encoder_depth=0, gt_encoder_depth=3)),
        ("not a list of block pairs: '4,'", MULTIPLE | dict(multi_blocks_match="4,")),
        ("--vae ./no-such: cannot load", dict(vae="./no-such")),
        ("checkpoint gone.pt: no such file", dict(resume="gone.pt")),
        ("checkpoint gone.pt: no such file", dict(ckpt="gone.pt", fine_tune=True)),
        ("--train-eps 2.0: it must be in", dict(transport=TransportConfig(train_eps=2.0))),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_and_write_nothing(tmp_path, message, changes):
    with pytest.raises(ValueError, match=message):
        train.Training(config(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_image_size_must_fit_the_codec(tmp_path, tiny_vae):
    folder = images(tmp_path / "data", 16)
    flags = dict(vae=tiny_vae, data_path=folder, dataset_name=None, num_classes=None)
    with pytest.raises(ValueError, match="--image-size 15 is not divisible by 2"):
        train.Training(config(tmp_path, image_size=15, **flags))
    with pytest.raises(ValueError, match="--image-size 14 is not divisible by 4"):
        train.Training(config(tmp_path, image_size=14, **flags))
    with pytest.raises(ValueError, match="encodes images of 3 channels, the data has 1"):
        train.Training(config(tmp_path, vae=tiny_vae))


def test_bf16_encoding_is_said_and_refused_where_nothing_is_encoded(tmp_path, tiny_vae, capfd):
    folder = images(tmp_path / "data", 16)
    data = dict(data_path=folder, dataset_name=None, image_size=16, num_classes=None)
    flags = data | dict(vae_bf16=True)
    training = train.Training(config(tmp_path, vae=tiny_vae, **flags))
    assert training.encoding.codec.bf16
    train.announce(training)
    assert "scripts/cache_latents.py" in capfd.readouterr().out
    with pytest.raises(ValueError, match="--vae-bf16 has no effect: --vae none encodes nothing"):
        train.Training(config(tmp_path, run_name="pixels", **flags))


def test_max_steps_are_steps_whatever_epochs_say(tmp_path):
    """The digits are 3 steps of 512 images."""
    for changes, last in (
        (dict(max_steps=5), 5),
        (dict(max_steps=2), 2),
        (dict(max_steps=None), 3),
    ):
        name = str(last)
        training = train.Training(
            config(tmp_path, global_batch_size=512, epochs=1, run_name=name, **changes)
        )
        assert training.last_step == last
    training = train.Training(
        config(tmp_path, global_batch_size=1024, epochs=1, max_steps=2, run_name="longer")
    )
    training.run()  # the digits are one step of 1024
    assert [row["step"] for row in read_log(training.folder / "metrics.jsonl")] == [1, 2]


def test_an_old_run_is_not_overwritten(tmp_path, finished):
    same = dataclasses.replace(finished.config)
    before = (finished.folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="already holds a run: add --resume latest"):
        train.Training(same)
    assert (finished.folder / "metrics.jsonl").read_bytes() == before


def test_a_run_without_a_readable_checkpoint_is_not_started_over(tmp_path, capsys):
    settings = config(tmp_path, run_name="run")
    train.Training(settings).run()
    again = dataclasses.replace(settings, resume="latest")
    for path in (tmp_path / "results" / "run" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"none of the 1 checkpoints .* can be read"):
        train.Training(again)
    assert "passed over: checkpoint" in capsys.readouterr().err
    assert len(read_log(tmp_path / "results" / "run" / "metrics.jsonl")) == 2


def test_a_run_killed_before_its_first_checkpoint_is_a_run(tmp_path):
    settings = config(tmp_path, run_name="run")
    train.Training(settings)  # has written its settings
    with pytest.raises(ValueError, match="already holds a run"):
        train.Training(settings)
    other = dataclasses.replace(settings, resume="latest", optim=OptimConfig(lr=0.1))
    with pytest.raises(ValueError, match=r"holds another run; --lr: 0\.0001 there, 0\.1 here"):
        train.Training(other)
    assert train.Training(dataclasses.replace(settings, resume="latest")).step == 0


def test_a_certain_checkpoint_does_not_overwrite_a_run(tmp_path, finished):
    path = str(finished.folder / "checkpoints" / "0000002.pt")
    train.Training(config(tmp_path, run_name="other"))
    with pytest.raises(ValueError, match=r"already holds a run, and .* is of another folder"):
        train.Training(config(tmp_path, run_name="other", resume=path))
    mine = config(tmp_path, run_name="mine", saving=SaveConfig(ckpt_every=1))
    train.Training(mine).run()
    first = str(tmp_path / "results" / "mine" / "checkpoints" / "0000001.pt")
    with pytest.raises(ValueError, match=r"later checkpoints than 0000001\.pt"):
        train.Training(dataclasses.replace(mine, resume=first))


def test_a_checkpoint_of_another_run_is_refused(tmp_path, finished):
    path = str(finished.folder / "checkpoints" / "0000002.pt")
    for message, changes in {
        "--model: SiT-Ti/2 there, SiT-S/2 here": dict(model="SiT-S/2"),
        "--lr: 0.0001 there, 0.01 here": dict(optim=OptimConfig(lr=0.01)),
        "--loss-type: layer_sync there, vanilla here": dict(loss_type="vanilla"),
        "--global-batch-size: 4 there, 8 here": dict(global_batch_size=8),
    }.items():
        with pytest.raises(ValueError, match=message):
            train.Training(config(tmp_path, resume=path, **changes))
    assert not list(tmp_path.iterdir())


def test_resume_latest_of_nothing_starts_at_step_0(tmp_path):
    assert train.Training(config(tmp_path, resume="latest")).step == 0


def test_ckpt_continues_like_resume(tmp_path, finished):
    path = str(finished.folder / "checkpoints" / "0000002.pt")
    training = train.Training(config(tmp_path, ckpt=path, max_steps=3))
    training.run()
    assert training.step == 3
    moments = [s for s in training.update.optimizer.state_dict()["state"].values() if s]
    assert all(state["step"] == 3 for state in moments)


def test_other_images_of_the_same_number_are_warned_of(tmp_path, tiny_vae, capsys):
    """Latents of the images are the same data; other names, or other labels, are not."""
    folders = [images(tmp_path / name, 8) for name in ("data", "same", "other")]
    first = next(Path(folders[2]).glob("*/*.png"))
    first.rename(first.with_name("renamed.png"))
    latents = str(tmp_path / "latents")
    cache_latents(CacheConfig(data_path=folders[0], vae=tiny_vae, image_size=8, out=latents))
    flags = dict(vae=tiny_vae, dataset_name=None, num_classes=None, run_name="run", num_workers=0)
    train.Training(config(tmp_path, data_path=folders[0], max_steps=1, **flags)).run()
    for data, said in ((folders[1], 0), (latents, 0), (folders[2], 1)):
        capsys.readouterr()
        train.Training(config(tmp_path, data_path=data, max_steps=2, resume="latest", **flags))
        assert capsys.readouterr().err.count("0000001.pt has seen other images") == said


def test_resume_latest_begins_at_ckpt_until_there_is_a_checkpoint_of_its_own(tmp_path, finished):
    path = str(finished.folder / "checkpoints" / "0000002.pt")
    begun = config(tmp_path, ckpt=path, max_steps=3, resume="latest")
    training = train.Training(begun)
    assert training.step == 2
    training.run()
    del training  # and its lock
    assert train.Training(dataclasses.replace(begun, max_steps=4)).step == 3


def test_fine_tune_starts_from_ema_weights_with_a_new_optimizer(tmp_path, finished):
    state = read_checkpoint(finished.folder / "checkpoints" / "0000002.pt")
    shifted = {key: value + 1 for key, value in state["ema"].items()}
    save_checkpoint(tmp_path / "w.pt", {"ema": shifted})
    training = train.Training(config(tmp_path, ckpt=str(tmp_path / "w.pt"), fine_tune=True))
    assert training.step == 0 and not training.update.optimizer.state_dict()["state"]
    for weights in (training.network.state_dict(), training.parallel.ema.state_dict()):
        assert all(torch.equal(weights[key], shifted[key]) for key in shifted)


def test_weights_that_were_trained_for_something_else_are_said(tmp_path, finished, capsys):
    weights = read_checkpoint(finished.folder / "checkpoints" / "0000002.pt")["ema"]
    stored = {"transport": {"path_type": "GVP", "prediction": "noise"}}
    save_checkpoint(tmp_path / "w.pt", {"ema": weights, "config": stored})
    tuned = config(tmp_path, ckpt=str(tmp_path / "w.pt"), fine_tune=True)
    train.Training(dataclasses.replace(tuned, run_name="other"))
    said = (
        "w.pt was trained with --path-type GVP, --prediction noise; this run has Linear, velocity"
    )
    assert said in capsys.readouterr().err
    same = TransportConfig(path_type="GVP", prediction="noise")
    train.Training(dataclasses.replace(tuned, run_name="same", transport=same))
    assert "was trained with" not in capsys.readouterr().err


def test_a_fine_tuned_run_does_not_go_on_as_one_from_other_weights(tmp_path, finished):
    """Its config.json would name weights that it did not begin from."""
    path = finished.folder / "checkpoints" / "0000002.pt"
    tuned = config(tmp_path, ckpt=str(path), fine_tune=True, run_name="tuned")
    train.Training(tuned).run()
    (tmp_path / "here").symlink_to(path.parent)
    again = dataclasses.replace(tuned, resume="latest", ckpt=str(tmp_path / "here" / path.name))
    assert train.Training(again).step == 2  # the same file by another name
    save_checkpoint(tmp_path / "w.pt", {"ema": read_checkpoint(path)["ema"]})
    other = dataclasses.replace(again, ckpt=str(tmp_path / "w.pt"))
    with pytest.raises(
        ValueError, match=r"--ckpt, which --fine-tune began from: \S+ there, \S+w.pt"
    ):
        train.Training(other)


def test_a_run_does_not_end_before_the_step_it_goes_on_from(tmp_path):
    """Its config.json would name fewer steps than made its weights."""
    settings = config(tmp_path, run_name="run")
    train.Training(settings).run()
    record = tmp_path / "results" / "run" / "config.json"
    before = record.read_bytes()
    shorter = dataclasses.replace(settings, resume="latest", max_steps=1)
    with pytest.raises(ValueError, match=r"of step 2, and this run is to end at step 1; give larg"):
        train.Training(shorter)
    assert record.read_bytes() == before
    assert train.Training(dataclasses.replace(settings, resume="latest")).step == 2


def test_checkpoint_is_complete(finished):
    state = read_checkpoint(finished.folder / "checkpoints" / "0000002.pt")
    assert state["step"] == 2 and state["data_length"] == 1797 and state["codec"] == "none"
    assert state["config"] == dataclasses.asdict(finished.config)
    assert state["config"]["engine"]["precision"] in ("fp32", "bf16")  # what "auto" came to
    expected = dict(name="SiT-Ti/2", input_size=8, in_channels=1, num_classes=10, learn_sigma=True)
    assert state["arch"] == expected


def test_ema_is_the_weighted_sum_of_the_weights(tmp_path):
    training = train.Training(config(tmp_path, optim=OptimConfig(ema_decay=0.7)))
    expected = {key: value.clone() for key, value in training.network.state_dict().items()}
    for step in range(2):
        images, labels = zip(*(training.source[i] for i in range(4)), strict=True)
        items = dict(images=torch.stack(images), labels=torch.tensor(labels))
        training.train_step(items | training.batches.draws(step, range(4)), step)
        for key, value in training.network.state_dict().items():
            expected[key] = 0.7 * expected[key] + 0.3 * value
    for key, value in training.parallel.ema.state_dict().items():
        torch.testing.assert_close(value, expected[key])


def test_logged_loss_is_velocity_plus_lambda_times_sync(finished):
    for row in read_log(finished.folder / "metrics.jsonl"):
        assert row["loss"] == pytest.approx(row["velocity_loss"] + 0.3 * row["sync_loss"], abs=1e-6)
        assert row["sync_loss"] == pytest.approx(-row["similarity_2_5"], abs=1e-6)


def test_multiple_sync_logs_each_pair_and_their_mean(tmp_path):
    train.Training(config(tmp_path, run_name="run", **MULTIPLE)).run()
    row = read_log(tmp_path / "results" / "run" / "metrics.jsonl")[-1]
    mean = (row["similarity_1_3"] + row["similarity_2_6"]) / 2
    assert row["sync_loss"] == pytest.approx(-mean, abs=1e-6)


def test_watching_a_pair_does_not_change_vanilla_training(tmp_path):
    losses = []
    for name, watched in {
        "plain": {},
        "watched": dict(encoder_depth=2, gt_encoder_depth=5),
    }.items():
        train.Training(config(tmp_path, loss_type="vanilla", run_name=name, **watched)).run()
        rows = read_log(tmp_path / "results" / name / "metrics.jsonl")
        losses.append([(row["loss"], row["grad_norm"]) for row in rows])
    assert losses[0] == losses[1]
    assert "similarity_2_5" in rows[-1]


def test_sample_grid_is_written(tmp_path):
    training = train.Training(config(tmp_path, sample_every=2))
    training.run()
    with Image.open(training.folder / "samples" / "0000002.png") as picture:
        assert picture.size == (8 * 70 - 6, 2 * 70 - 6)  # 16 digits, enlarged to 64 pixels


def images(folder, side):
    for i in range(4):
        (folder / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"class{i % 2}" / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def tiny_vae(tmp_path_factory):
    """An autoencoder of SD's kind, random and small: 4 latent channels, factor 2."""
    folder = tmp_path_factory.mktemp("vae")
    save_tiny_vae(folder)
    return str(folder)


def test_training_from_cached_latents_is_training_from_images(tmp_path, tiny_vae):
    """Mirrors, posterior samples and losses are the same in float32 with the same seed."""
    folder, cache = images(tmp_path / "data", 20), str(tmp_path / "cache")
    flags = dict(vae=tiny_vae, image_size=16)
    settings = CacheConfig(out=cache, data_path=folder, dtype="float32", num_workers=0, **flags)
    cache_latents(settings)
    losses = []
    for name, path in {"images": folder, "latents": cache}.items():
        run = config(
            tmp_path, data_path=path, dataset_name=None, num_classes=2, run_name=name, **flags
        )
        train.Training(dataclasses.replace(run, val_data_path=path, val_every=2)).run()
        rows = read_log(tmp_path / "results" / name / "metrics.jsonl")
        losses.append([row.get("loss", row.get("val_loss")) for row in rows])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(ValueError, match="holds latents of another codec or size"):
        train.Training(dataclasses.replace(run, run_name="other", image_size=20))


def test_trains_on_images_through_an_autoencoder(tmp_path, tiny_vae):
    folder = images(tmp_path / "data", 20)
    changes = dict(vae=tiny_vae, data_path=folder, dataset_name=None, image_size=16, num_classes=2)
    training = train.Training(config(tmp_path, **changes))
    training.run()
    assert training.arch["in_channels"] == 4 and training.arch["input_size"] == 8
    assert np.isfinite([row["loss"] for row in read_log(training.folder / "metrics.jsonl")]).all()
