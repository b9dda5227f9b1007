"""sample_ddp.py: the same file for any number of processes, killed or not."""

import argparse
import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from launching import check, kill_when, run
from PIL import Image
from random_sit import random_sit, save_random_sit

import sample_ddp
from evaluation.samples import read_samples
from models import SiT_models
from runtime import processes
from runtime.command import RunError
from runtime.randomness import image_streams
from sampling.sample_config import ODE, SDE
from sampling.sample_file import settings_of_samples

COUNT, BATCH = 14, 4
OF_A_LAUNCH = 22  # images, so that a kill finds it at work


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny pixel-space SiT with random weights everywhere, saved as official files are."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_random_sit(path, in_channels=3, num_classes=5)
    return path


def config(kind, checkpoint, out, **changes):
    """Six grid points, guidance 1.5, 14 images in batches of 4."""
    common = dict(num_fid_samples=COUNT, per_proc_batch_size=BATCH, vae="none", cfg_scale=1.5)
    common |= dict(num_sampling_steps=6, sampling_method="heun2" if kind is ODE else "Euler")
    return kind(**(common | dict(ckpt=checkpoint and str(checkpoint), out=str(out)) | changes))


def flags(checkpoint, out):
    return [
        "ODE", "--ckpt", checkpoint, "--vae", "none", "--num-fid-samples", OF_A_LAUNCH, "--out",
        out,
        "--per-proc-batch-size", BATCH, "--cfg-scale", 1.5, "--num-sampling-steps", 6,
        "--sampling-method", "heun2",
    ]  # fmt: skip


def sample_here(config, order=(0,)) -> bytes:
    """Sample in this process, in the roles of several ranks one after the other; rank 0 last."""
    sampling = sample_ddp.Sampling(config)
    assert sampling.parts.check()
    sampling.parts.prepare()
    for rank in reversed(order):
        sampling.run(rank, len(order))
    return sampling.parts.out.read_bytes()


def test_one_and_two_processes_and_a_killed_run_write_the_same_bytes(checkpoint, tmp_path):
    outs = [tmp_path / name for name in ("one.npz", "two.npz", "killed.npz")]
    check("sample_ddp.py", *flags(checkpoint, outs[0]), real=True)
    check("sample_ddp.py", *flags(checkpoint, outs[1]), processes=2)
    parts = tmp_path / "killed.npz.parts"
    kill_when(
        lambda: len(list(parts.glob("*.npz"))) >= 1,
        "sample_ddp.py",
        *flags(checkpoint, outs[2]),
    )
    assert not outs[2].exists()
    check("sample_ddp.py", *flags(checkpoint, outs[2]), processes=2)
    assert outs[0].read_bytes() == outs[1].read_bytes() == outs[2].read_bytes()
    assert not parts.exists() and outs[2].with_suffix(".png").exists()
    again = check("sample_ddp.py", *flags(checkpoint, outs[2]))
    assert "complete already" in again


@pytest.mark.parametrize("kind", [ODE, SDE])
def test_any_number_of_ranks_writes_the_same_bytes(checkpoint, tmp_path, kind):
    files = [
        sample_here(config(kind, checkpoint, tmp_path / f"{world}.npz"), range(world))
        for world in (1, 3, 8)
    ]
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("kind", [ODE, SDE])
def test_batch_size_changes_rounding_only(checkpoint, tmp_path, kind):
    sample_here(config(kind, checkpoint, tmp_path / "a.npz"))
    sample_here(config(kind, checkpoint, tmp_path / "b.npz", per_proc_batch_size=7))
    (images_a, labels_a, _), (images_b, labels_b, _) = (
        read_samples(tmp_path / name) for name in ("a.npz", "b.npz")
    )
    assert np.array_equal(labels_a, labels_b)
    assert np.abs(images_a.astype(int) - images_b).max() <= 1


def test_more_images_begin_with_the_same_ones(checkpoint, tmp_path):
    sample_here(config(ODE, checkpoint, tmp_path / "few.npz", num_fid_samples=8))
    sample_here(config(ODE, checkpoint, tmp_path / "many.npz"))
    few, many = (read_samples(tmp_path / name)[0] for name in ("few.npz", "many.npz"))
    assert np.array_equal(few, many[:8])


def test_npz_holds_images_labels_and_recipe(checkpoint, tmp_path):
    sample_here(config(SDE, checkpoint, tmp_path / "a.npz", global_seed=3))
    with np.load(tmp_path / "a.npz") as archive:  # allow_pickle is off: plain arrays only
        assert archive["arr_0"].shape == (COUNT, 8, 8, 3) and archive["arr_0"].dtype == np.uint8
        labels, recipe = archive["labels"], json.loads(str(archive["recipe"]))
    streams = image_streams(3, range(COUNT))
    assert np.array_equal(labels, streams.integers(5).numpy())
    assert recipe["nfe"] == {"mean": 6.0, "max": 6}  # 5 grid steps and the last one
    assert recipe["solver"]["diffusion_form"] == "sigma" and recipe["seed"] == 3
    assert recipe["cfg_scale"] == 1.5 and recipe["cfg_channels"] == "3"
    assert recipe["model"] == "SiT-Ti/2" and recipe["num_classes"] == 5
    assert recipe["solved_interval"] == [0.0, 0.96] and recipe["label_sampling"] == "random"
    assert recipe["vae"] == "none" and recipe["vae_fingerprint"] is None
    assert recipe["dtype"] == "float32" and recipe["versions"]["torch"] == torch.__version__
    weights = torch.load(checkpoint, weights_only=True)["ema"]
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    assert recipe["weights_sha256"] == digest.hexdigest()


def test_heun_ode_counts_two_evaluations_a_step(checkpoint, tmp_path):
    sample_here(config(ODE, checkpoint, tmp_path / "a.npz"))
    assert read_samples(tmp_path / "a.npz")[2]["nfe"]["mean"] == 10  # 6 points, 5 steps of 2


def test_guidance_changes_images_and_not_labels(checkpoint, tmp_path):
    sample_here(config(ODE, checkpoint, tmp_path / "a.npz"))
    sample_here(config(ODE, checkpoint, tmp_path / "b.npz", cfg_scale=1.0))
    a, b = (read_samples(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert not np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_likelihood_is_stored_for_each_image(checkpoint, tmp_path):
    settings = config(ODE, checkpoint, tmp_path / "a.npz", likelihood=True, cfg_scale=1.0)
    sample_here(settings)
    with np.load(tmp_path / "a.npz") as archive:
        bits = archive["bits_per_dim"]
    assert bits.shape == (COUNT,) and np.isfinite(bits).all()


def test_an_interval_costs_what_it_should(checkpoint, tmp_path):
    """Euler at t = 0, 0.2, ... 0.8: guided at 0.4, 0.6 and 0.8."""
    settings = dict(sampling_method="euler", guidance_interval=(0.3, 0.9))
    sample_here(config(ODE, checkpoint, tmp_path / "a.npz", **settings))
    images, _, recipe = read_samples(tmp_path / "a.npz")
    assert recipe["nfe"]["max"] == 5 and recipe["network_passes"]["max"] == 8
    assert recipe["guidance_interval"] == [0.3, 0.9]
    sample_here(config(ODE, checkpoint, tmp_path / "b.npz", sampling_method="euler"))
    always, _, recipe = read_samples(tmp_path / "b.npz")
    assert recipe["network_passes"]["max"] == 10 and not np.array_equal(images, always)


def test_balanced_labels_change_labels_and_not_noise(checkpoint, tmp_path):
    settings = dict(label_sampling="balanced", num_fid_samples=20)
    sampling = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "a.npz", **settings))
    drawn = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "b.npz", num_fid_samples=20))
    seen = []
    for one in (sampling, drawn):
        one.maker.sample = lambda z, network, y: seen.append((z, y)) or [z]
        one.batch(1)
    (z, y), (z_drawn, y_drawn) = seen
    assert torch.equal(z, z_drawn) and not torch.equal(y, y_drawn)
    sample_here(config(ODE, checkpoint, tmp_path / "c.npz", **settings))
    labels = read_samples(tmp_path / "c.npz")[1]
    assert np.bincount(labels).tolist() == [4] * 5
    # the parts of one kind are not continued with the other
    half = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "d.npz", **settings))
    half.parts.prepare()
    with pytest.raises(ValueError, match="label_sampling: balanced there, random here"):
        sample_here(config(ODE, checkpoint, tmp_path / "d.npz", num_fid_samples=20))


def test_the_trained_network_can_be_sampled_instead_of_its_average(checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["ema"]
    other = {key: value + 0.05 * (value.dim() == 1) for key, value in weights.items()}
    torch.save({"ema": weights, "model": other}, tmp_path / "both.pt")
    torch.save({"ema": other}, tmp_path / "other.pt")
    sample_here(config(ODE, tmp_path / "both.pt", tmp_path / "a.npz", weights="model"))
    sample_here(config(ODE, tmp_path / "other.pt", tmp_path / "b.npz"))
    sample_here(config(ODE, tmp_path / "both.pt", tmp_path / "c.npz"))
    a, b, c = (read_samples(tmp_path / f"{name}.npz") for name in "abc")
    assert np.array_equal(a[0], b[0]) and not np.array_equal(a[0], c[0])
    assert a[2]["weights"] == "model" and a[2]["weights_sha256"] == b[2]["weights_sha256"]
    with pytest.raises(ValueError, match="no model in it, only ema"):
        settings = dict(weights="model")
        sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "d.npz", **settings))


def test_bfloat16_changes_little_and_is_recorded(checkpoint, tmp_path):
    sample_here(config(ODE, checkpoint, tmp_path / "a.npz"))
    sample_here(config(ODE, checkpoint, tmp_path / "b.npz", bf16=True))
    a, b = (read_samples(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert b[2]["dtype"] == "bfloat16 (autocast)" and not np.array_equal(a[0], b[0])
    assert np.abs(a[0].astype(int) - b[0]).mean() < 2


def test_damaged_parts_are_made_again(checkpoint, tmp_path):
    """Truncated, with a flipped byte, or empty: seen by content, not by name."""
    whole = sample_here(config(ODE, checkpoint, tmp_path / "whole.npz"))
    sampling = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "a.npz"))
    parts = sampling.parts
    parts.prepare()
    for k in range(4):
        images, columns = sampling.batch(k)
        parts.write(k, images, **columns)
    content = parts.path(1).read_bytes()
    parts.path(1).write_bytes(content[: len(content) // 2])
    flipped = content.replace(content[300:310], bytes(10))
    parts.path(2).write_bytes(flipped)
    parts.path(3).write_bytes(b"")
    kept = parts.path(0).stat().st_mtime_ns
    again = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "a.npz"))
    assert [again.parts.finished(k) for k in range(4)] == [True, False, False, False]
    assert again.parts.path(0).stat().st_mtime_ns == kept
    assert sample_here(config(ODE, checkpoint, tmp_path / "a.npz")) == whole


@pytest.mark.parametrize("processes", [1, 2])
def test_parts_that_nobody_makes_are_made_by_the_first_process(
    checkpoint, tmp_path, monkeypatch, capsys, processes
):
    """A part that was removed while others were made, or of a process that is gone."""
    whole = sample_here(config(ODE, checkpoint, tmp_path / "whole.npz"))
    monkeypatch.setattr("sampling.run.SECONDS_WITHOUT_A_PART", 0.1)
    sampling = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "a.npz"))
    parts, make = sampling.parts, sampling.sample_batch

    def remove_the_first_after_the_third(k):
        make(k)
        if k == 2:
            parts.path(0).unlink()

    monkeypatch.setattr(sampling, "sample_batch", remove_the_first_after_the_third)
    parts.prepare()
    sampling.run(0, processes)
    assert (tmp_path / "a.npz").read_bytes() == whole
    missing = 1 if processes == 1 else 1 + parts.batches // 2
    assert capsys.readouterr().err.count("is not there: sampled again") == missing


def test_a_part_that_another_process_left_damaged_is_named_and_removed(checkpoint, tmp_path):
    sampling = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "a.npz"))
    sampling.parts.prepare()
    for k in range(sampling.parts.batches):
        images, columns = sampling.batch(k)
        sampling.parts.write(k, images, **columns)
    sampling.parts.path(3).write_bytes(b"PK")
    with pytest.raises(RunError, match=r"000003\.npz was damaged .* and is removed"):
        sampling.parts.assemble()
    assert not sampling.parts.path(3).exists() and not sampling.parts.out.exists()
    sample_here(config(ODE, checkpoint, tmp_path / "a.npz"))


def test_images_can_be_had_as_files_too(checkpoint, tmp_path):
    sample_here(config(ODE, checkpoint, tmp_path / "a.npz", save_png=True))
    images = read_samples(tmp_path / "a.npz")[0]
    paths = sorted((tmp_path / "a").glob("*.png"))
    assert [path.name for path in paths] == [f"{i:06d}.png" for i in range(COUNT)]
    assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in paths]), images)


def test_pictures_belong_to_the_recipe(checkpoint, tmp_path):
    """They can be had of a finished set, and never lie among those of another one."""
    out, pictures = tmp_path / "a.npz", tmp_path / "a"
    sample_ddp.main(config(ODE, checkpoint, out))
    before = out.read_bytes()
    sample_ddp.main(config(ODE, checkpoint, out, save_png=True))
    images = read_samples(out)[0]
    written = [np.asarray(Image.open(path)) for path in sorted(pictures.glob("*.png"))]
    assert np.array_equal(written, images) and out.read_bytes() == before

    (pictures / "000007.png").unlink()  # as after a kill
    sample_ddp.main(config(ODE, checkpoint, out, save_png=True))
    assert (pictures / "000007.png").exists()

    out.unlink()
    out.with_suffix(".png").unlink()
    with pytest.raises(SystemExit):
        sample_ddp.main(config(ODE, checkpoint, out, save_png=True, global_seed=1))
    assert np.array_equal(
        [np.asarray(Image.open(path)) for path in sorted(pictures.glob("*.png"))], images
    )
    assert not out.exists()


@pytest.mark.parametrize("there", ["photo/holiday.jpg", "photo.png"])
def test_files_of_others_beside_the_npz_are_not_touched(checkpoint, tmp_path, there, capsys):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(path)
    before = path.read_bytes()
    with pytest.raises(SystemExit) as exit:
        sample_ddp.main(config(ODE, checkpoint, tmp_path / "photo.npz", save_png=True))
    assert exit.value.code == 2 and "give another --out" in capsys.readouterr().err
    assert path.read_bytes() == before and not (tmp_path / "photo.npz").exists()


def test_a_file_that_reads_back_different_keeps_its_parts(checkpoint, tmp_path, monkeypatch):
    """The parts go only when the .npz was proven to hold them."""
    from sampling import assembling as module

    def write_black(archive, name, shape, dtype, blocks):
        if name == "arr_0":
            blocks = [block * (k < 2) for k, block in enumerate(blocks)]
        write_array(archive, name, shape, dtype, blocks)

    write_array = module.write_array
    sampling = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "a.npz"))
    sampling.parts.prepare()
    monkeypatch.setattr(module, "write_array", write_black)
    with pytest.raises(RunError, match=r"images of 000002\.npz are others there"):
        sampling.run(0, 1)
    monkeypatch.undo()
    parts = sampling.parts
    assert not parts.out.exists() and all(parts.path(k).exists() for k in range(parts.batches))
    sampling.run(0, 1)
    assert parts.out.exists() and not parts.folder.exists()
    parts.folder.mkdir()  # as if killed before they went
    content = bytearray(parts.out.read_bytes())
    content[len(content) // 2] ^= 1
    parts.out.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        parts.clean_up()
    assert parts.folder.exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive", "foreign", "list"])
def test_what_lies_at_out_is_named(checkpoint, tmp_path, content, capsys):
    out = tmp_path / "a.npz"
    if isinstance(content, bytes):
        out.write_bytes(content)
    else:
        recipe = {"foreign": '{"a": 1}', "list": "[1]"}[content]
        np.savez(out, arr_0=np.zeros((2, 8, 8, 3), np.uint8), recipe=np.array(recipe))
    before = out.read_bytes()
    with pytest.raises(SystemExit) as exit:
        sample_ddp.main(config(ODE, checkpoint, out))
    assert exit.value.code == 2 and str(out) in capsys.readouterr().err
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("batch", [10**9, 99_999_999_999])
def test_a_batch_that_cannot_fit_is_refused_before_it_takes_memory(checkpoint, tmp_path, batch):
    with pytest.raises(ValueError, match=rf"--per-proc-batch-size {batch}: .*GB are free"):
        sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "a.npz", per_proc_batch_size=batch))


def test_folders_and_disks_that_will_not_do_are_refused_first(checkpoint, tmp_path, monkeypatch):
    blocked = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "file" / "a.npz"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file, where a folder is needed"):
        blocked.parts.check()
    with pytest.raises(ValueError, match="file is a file, where a folder is needed"):
        sample_ddp.Sampling(config(ODE, tmp_path / "not_read.pt", tmp_path / "file" / "a.npz"))
    sampling = sample_ddp.Sampling(config(ODE, checkpoint, tmp_path / "a.npz"))
    needed = 2 * COUNT * (8 * 8 * 3 + 64)
    usage = type("Usage", (), {"free": needed - 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="GB needed, for the parts and"):
        sampling.parts.check()
    usage.free += 1
    assert sampling.parts.check()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_without_a_null_label_is_sampled_but_not_guided(tmp_path):
    model = SiT_models["SiT-Ti/2"](
        input_size=8, in_channels=3, num_classes=5, class_dropout_prob=0.0
    )
    torch.save({"ema": model.state_dict()}, tmp_path / "plain.pt")
    settings = dict(num_classes=5, num_fid_samples=4)
    with pytest.raises(ValueError, match="no null label"):
        sample_ddp.Sampling(config(ODE, tmp_path / "plain.pt", tmp_path / "a.npz", **settings))
    sample_here(config(ODE, tmp_path / "plain.pt", tmp_path / "a.npz", cfg_scale=1.0, **settings))
    recipe = read_samples(tmp_path / "a.npz")[2]
    assert recipe["num_classes"] == 5
    # the file alone tells of four and a null label
    assert settings_of_samples(recipe)["num_classes"] == 5


def test_wrong_settings_are_refused_before_sampling(checkpoint, tmp_path):
    refused = {
        "no such file": dict(checkpoint=tmp_path / "none.pt"),
        "--model SiT-XL/2.*SiT-Ti/2": dict(model="SiT-XL/2"),
        "--num-classes 1000.*says 5": dict(num_classes=1000),
        "--image-size 256": dict(image_size=256),
        "--cfg-scale 0.5": dict(cfg_scale=0.5),
        "sampling_method 'heun'": dict(sampling_method="heun"),
        "--likelihood needs": dict(likelihood=True),
        "--likelihood needs .* no --bf16": dict(likelihood=True, cfg_scale=1.0, bf16=True),
        "--guidance-interval 0.7 0.2: it must be two times": dict(guidance_interval=(0.7, 0.2)),
        "--guidance-interval 0.2 1 has no effect": dict(cfg_scale=1.0, guidance_interval=(0.2, 1)),
        "--num-fid-samples 0": dict(num_fid_samples=0),
        "--num-sampling-steps 1: it must be at least 2": dict(num_sampling_steps=1),
        "--cfg-scale inf": dict(cfg_scale=float("inf")),
        "--cfg-scale nan": dict(cfg_scale=float("nan")),
        "name of an .npz": dict(out="samples.png"),
    }
    for message, changes in refused.items():
        with pytest.raises(ValueError, match=message):
            settings = {"out": tmp_path / "a.npz", "checkpoint": checkpoint} | changes
            sample_ddp.Sampling(config(ODE, **settings))
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_other_networks_are_refused_by_name(checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["ema"]
    wide = {"x_embedder.proj.weight": torch.zeros(72, 3, 2, 2)}
    torch.save({"ema": torch.nn.Linear(2, 2).state_dict()}, tmp_path / "linear.pt")
    torch.save({"ema": weights | wide}, tmp_path / "wide.pt")
    torch.save({"ema": weights | {"extra": torch.zeros(1)}}, tmp_path / "more.pt")
    for name, message in {
        "linear.pt": r"not the weights of a SiT \(no x_embedder\.proj\.weight\)",
        "wide.pt": "a SiT with depth 8, hidden_size 72, patch_size 2, which no model",
        "more.pt": "of another network .*: extra unknown",
    }.items():
        with pytest.raises(ValueError, match=f"^checkpoint {tmp_path / name}: .*{message}"):
            sample_ddp.Sampling(config(ODE, tmp_path / name, tmp_path / "a.npz"))


def test_samples_that_are_not_finite_end_the_run(checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["ema"]
    weights["final_layer.linear.bias"][0] = 3e38  # finite, and the sum of two is not
    torch.save({"ema": weights}, tmp_path / "nan.pt")
    sampling = sample_ddp.Sampling(config(ODE, tmp_path / "nan.pt", tmp_path / "a.npz"))
    with pytest.raises(RunError, match="images 4 to 7: the solver gave NaN or infinity"):
        sampling.batch(1)


def test_a_file_of_other_settings_is_not_overwritten(checkpoint, tmp_path):
    before = sample_here(config(ODE, checkpoint, tmp_path / "a.npz"))
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        sample_here(config(ODE, checkpoint, tmp_path / "a.npz", global_seed=1))
    assert (tmp_path / "a.npz").read_bytes() == before
    (tmp_path / "b.npz").write_text("mine")
    with pytest.raises(ValueError, match=r"b\.npz exists and is not of this program"):
        sample_here(config(ODE, checkpoint, tmp_path / "b.npz"))


def test_command_line_errors_are_one_line(tmp_path):
    done = run("sample_ddp.py", "ODE", "--ckpt", tmp_path / "none.pt")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        f"sample_ddp.py: error: checkpoint {tmp_path}/none.pt: no such file"
    ]


def test_repa_checkpoints_are_sampled_with_time_turned_around(checkpoint, tmp_path):
    """REPA: no unused output channels, projectors beside the network, t from data to noise."""
    model = random_sit(seed=1, in_channels=3, num_classes=5, learn_sigma=False)
    weights = model.state_dict() | {"projectors.0.0.weight": torch.zeros(3)}
    torch.save({"ema": weights, "steps": 7}, tmp_path / "repa.pt")
    settings = dict(cfg_scale=1.0, sampling_method="euler", num_sampling_steps=9)
    sampling = sample_ddp.Sampling(
        config(ODE, tmp_path / "repa.pt", tmp_path / "a.npz", **settings)
    )
    images, columns = sampling.batch(0)

    streams = image_streams(0, range(BATCH))
    y, x = streams.integers(5), streams.normal((3, 8, 8))
    with torch.no_grad():
        for i in range(8):  # from noise at REPA's time 1 down to data at 0
            x = x - model(x, torch.full((BATCH,), 1 - i / 8), y) / 8
    expected = (127.5 * x + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(columns["labels"], y.numpy())
    assert np.abs(images.astype(int) - expected).max() <= 1


def test_the_command_line_that_sit_stores_is_read(checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["ema"]
    args = argparse.Namespace(path_type="GVP", prediction="noise", sample_eps=0.01, image_size=8)
    torch.save({"ema": weights, "args": args}, tmp_path / "sit.pt")
    sampling = sample_ddp.Sampling(config(ODE, tmp_path / "sit.pt", tmp_path / "a.npz"))
    transport = sampling.maker.sampler.transport
    assert type(transport.path).__name__ == "GVP" and transport.prediction == "noise"
    assert transport.sample_eps == 0.01
    with pytest.raises(ValueError, match="--prediction velocity: the checkpoint says noise"):
        sample_ddp.Sampling(
            config(ODE, tmp_path / "sit.pt", tmp_path / "a.npz", prediction="velocity")
        )


def test_half_precision_weights_can_be_sampled(checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["ema"]
    torch.save({key: value.bfloat16() for key, value in weights.items()}, tmp_path / "half.pt")
    sample_here(config(ODE, tmp_path / "half.pt", tmp_path / "a.npz", num_fid_samples=4))
    assert read_samples(tmp_path / "a.npz")[0].std() > 0


def test_default_names_tell_runs_and_settings_apart(checkpoint, tmp_path):
    names = set()
    for changes in ({}, dict(cfg_scale=2.0), dict(diffusion_form="linear"), dict(global_seed=1)):
        settings = config(SDE, checkpoint, None, **changes)
        settings = dataclasses.replace(settings, out=None, sample_dir=str(tmp_path))
        names.add(sample_ddp.Sampling(settings).parts.out.name)
    assert len(names) == 4


def test_the_gpu_is_that_of_the_local_rank(monkeypatch):
    """The third process of the second machine uses the third GPU there, not the eleventh."""
    chosen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setenv("RANK", "10")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert processes.choose_device() == torch.device("cuda", 2) == chosen[0]
