"""Which images are probed, and what a run logs of its blocks."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import TINY_DIGITS, save_tiny_vae
from PIL import Image

import train
from data.sources import DigitsSource
from evaluation.blocks.probed_images import Probing, probe_images
from runtime.randomness import PROBE, image_streams
from scripts.cache_latents import CacheConfig
from scripts.cache_latents import main as cache_latents
from training.tracking import read_log


def encode(images, mirrored, draws):
    assert not mirrored.any()
    return images.float() / 127.5 - 1


@pytest.mark.parametrize(("samples", "classes", "each"), [(400, 10, 40), (100, 5, 20), (59, 2, 29)])
def test_images_are_balanced_and_disjoint(samples, classes, each):
    labels = np.random.default_rng(0).integers(10, size=2000)
    fit, held_out = probe_images(labels, samples, seed=0)
    assert not set(fit) & set(held_out) and len(fit) + len(held_out) <= samples
    for part, count in ((fit, each // 2), (held_out, each - each // 2)):
        assert np.unique(labels[part], return_counts=True)[1].tolist() == [count] * classes


def test_the_choice_is_a_function_of_the_seed():
    labels = np.arange(500) % 5
    first, again, other = (np.concatenate(probe_images(labels, 200, seed)) for seed in (0, 0, 1))
    assert (first == again).all() and set(first) != set(other)


def test_rare_classes_are_left_out():
    labels = np.array([0] * 100 + [1] * 5 + [2] * 30)
    fit, held_out = probe_images(labels, 1000, seed=0)
    assert np.bincount(labels[np.concatenate([fit, held_out])]).tolist() == [100, 0, 30]


@pytest.mark.parametrize(
    ("said", "labels", "samples"),
    [
        ("tells classes apart, and the data has 1:", [3] * 100, 100),
        ("--probe-samples 39: at least 40 are needed", [0, 1] * 100, 39),
        (r"of the 3 classes of the data, 1 have that many", [0] * 50 + [1] * 19 + [2] * 9, 100),
        ("tells classes apart, and the data has 0:", [], 100),
    ],
)
def test_too_little_data_is_refused(said, labels, samples):
    with pytest.raises(ValueError, match=said):
        probe_images(np.array(labels), samples, seed=0)


def test_batches_hold_the_images_their_noise_and_their_labels():
    source = DigitsSource()
    probing = Probing(source, 100, seed=7)
    fit, held_out = (probing.encoded(part, encode) for part in (0, 1))
    batches = (batch[:3] for batch in (*fit, *held_out))
    x_1, x_0, labels = (torch.cat(column) for column in zip(*batches, strict=True))
    for i, number in enumerate(np.concatenate(probing.images).tolist()):
        image, label = source[number]
        assert torch.equal(x_1[i], image / 127.5 - 1) and probing.classes[labels[i]] == label
        assert torch.equal(x_0[i], image_streams(7, [number], purpose=PROBE).normal((1, 8, 8))[0])
    assert labels.max() == 4  # five of the digits


def folder_of_images(root, side, per_class):
    """Noise, in two classes."""
    for i in range(2 * per_class):
        (Path(root) / str(i % 2)).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(256, size=(side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path(root) / str(i % 2) / f"{i}.png")
    return root


def short(tmp_path, **changes):
    changes = dict(results_dir=str(tmp_path), run_name="run", probe_samples=60) | changes
    return dataclasses.replace(TINY_DIGITS, **changes)


def test_a_run_logs_its_probes_and_is_not_changed_by_them(tmp_path):
    rows = {}
    for name, every in {"plain": 0, "probed": 2}.items():
        training = train.Training(short(tmp_path, run_name=name, probe_every=every))
        training.run()
        rows[name] = read_log(training.folder / "metrics.jsonl")
    losses = {name: [row["loss"] for row in log if "loss" in row] for name, log in rows.items()}
    assert losses["plain"] == losses["probed"]
    probes = [row for row in rows["probed"] if "loss" not in row]
    assert [row["step"] for row in probes] == [2, 4]
    expected = {f"probe_{name}_{k}" for name in ("accuracy", "rank") for k in range(1, 9)}
    expected |= {f"probe_similarity_{k}_{k + 1}" for k in range(1, 8)}
    assert probes[0].keys() == expected | {"step"}
    assert all(0 <= probes[0][f"probe_accuracy_{k}"] <= 1 for k in range(1, 9))
    assert all(1 <= probes[0][f"probe_rank_{k}"] <= 64 for k in range(1, 9))

    ema = training.parallel.ema
    again = [
        Probing(training.source, 60, 0).values(
            ema, ema.blocks, training.encoding, training.transport
        )
        for _ in range(2)
    ]
    assert again[0] == again[1] == {key: probes[1][key] for key in again[0]}


def test_held_out_images_are_probed_where_there_are_any(tmp_path):
    folder = folder_of_images(str(tmp_path / "held-out"), 8, per_class=20)
    data = dict(dataset_name=None, data_path=folder, val_data_path=folder, num_classes=2)
    training = train.Training(short(tmp_path, probe_every=2, **data))
    assert training.monitors["block_probes"].probing.source.root == folder


def test_data_without_classes_is_refused_before_anything_is_written(tmp_path):
    folder = tmp_path / "data" / "all"
    folder.mkdir(parents=True)
    for i in range(40):
        Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    data = dict(dataset_name=None, data_path=str(tmp_path / "data"), num_classes=1)
    with pytest.raises(ValueError, match="the data has 1: use data with two classes"):
        train.Training(short(tmp_path / "results", probe_every=2, **data))
    assert not (tmp_path / "results").exists()


def test_cached_latents_are_probed_like_their_images(tmp_path):
    """Latents, noise and probes are the same in float32 with the same seed."""
    save_tiny_vae(tmp_path / "vae")
    images, cache, vae = (str(tmp_path / name) for name in ("images", "cache", "vae"))
    folder_of_images(images, 8, per_class=20)
    where = dict(out=cache, data_path=images, vae=vae, image_size=8)
    cache_latents(CacheConfig(**where, dtype="float32", num_workers=0))
    values = []
    for name, path in {"a": images, "b": cache}.items():
        data = dict(dataset_name=None, data_path=path, vae=vae, num_classes=2, run_name=name)
        training = train.Training(short(tmp_path / "results", probe_every=2, **data))
        assert training.encoding.latent_shape == (4, 4, 4)
        ema = training.parallel.ema
        given = ema, ema.blocks, training.encoding, training.transport
        values.append(training.monitors["block_probes"].probing.values(*given))
    assert values[0] == pytest.approx(values[1], rel=1e-4)
