"""scripts/cache_latents.py: the same files for any number of processes, killed or not."""

import dataclasses
import errno
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import ROOT, check, kill_when, run, save_tiny_vae
from PIL import Image

from data.latent_writer import ShardWriter
from data.latents import LatentSource, sample_posterior
from data.sources import FolderSource
from models import load_codec
from runtime.command import parse_command
from scripts import cache_latents
from scripts.cache_latents import CacheConfig, Caching, check_cache_config, main

SCRIPT = "scripts/cache_latents.py"
COUNT = 26


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """An autoencoder of SD's kind, random and small: 4 latent channels, factor 2."""
    return save_tiny_vae(tmp_path_factory.mktemp("vae"), seed=0)


def save_image(path: Path, seed: int, size=(20, 17)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_images(folder: Path) -> Path:
    """Three classes, which the ImageFolder has in this order."""
    for i in range(COUNT):
        save_image(folder / f"class{i * 3 // COUNT}" / f"{i:02d}.png", i)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def config(images, vae, out, **changes) -> CacheConfig:
    common = dict(image_size=16, shard_size=4, batch_size=3, num_workers=0, dtype="float32")
    return CacheConfig(out=str(out), data_path=str(images), vae=vae, **(common | changes))


def flags(images, vae, out) -> list:
    return [
        "--data-path", images, "--vae", vae, "--out", out, "--image-size", 16, "--shard-size", 4,
        "--batch-size", 3, "--num-workers", 1, "--dtype", "float32",
    ]  # fmt: skip


def cache_here(config: CacheConfig, world_size: int = 1) -> LatentSource:
    """Make a cache in this process, in the roles of several ranks one after the other."""
    for rank in reversed(range(world_size)):
        caching = Caching(config, rank, world_size)
        caching.run()
    caching.finish()
    return LatentSource(config.out)


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_and_two_processes_and_a_killed_run_write_the_same_files(images, vae, tmp_path, real):
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    cache_here(config(images, vae, one))
    said = check(SCRIPT, *flags(images, vae, two), processes=2, real=real)
    assert f"{COUNT} images in 7 shards" in said
    kill_when(
        lambda: len(list((killed / "progress").glob("0*.json"))) >= 2,
        *(SCRIPT, *flags(images, vae, killed)),
    )
    assert not (killed / "manifest.json").exists()
    records = [path.stem for path in (killed / "progress").glob("0*.json")]
    done = {
        path: path.stat().st_mtime_ns for k in records for path in killed.glob(f"*-{k[:5]}.npy")
    }
    check(SCRIPT, *flags(images, vae, killed), real=real)
    assert content(one) == content(two) == content(killed)
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.parametrize("world_size", [3, 9])
def test_any_number_of_ranks_writes_the_same_files(images, vae, tmp_path, world_size):
    cache_here(config(images, vae, tmp_path / "one"))
    cache_here(config(images, vae, tmp_path / "many"), world_size)
    assert content(tmp_path / "one") == content(tmp_path / "many")


def test_a_process_that_comes_late_finds_everything_done(images, vae, tmp_path):
    for rank in (1, 0):  # the first one waits for the others
        Caching(config(images, vae, tmp_path), rank, 2).run()
    first, late = (Caching(config(images, vae, tmp_path), rank, 2) for rank in range(2))
    first.run()
    first.finish()
    before = content(tmp_path)
    late.run()
    Caching(config(images, vae, tmp_path), 1, 2).run()
    assert content(tmp_path) == before and "manifest.json" in before


def test_latents_are_those_of_encoding_on_the_fly(images, vae, tmp_path):
    """Mean and std of image and mirror, labels, and samples with the same noise."""
    source = cache_here(config(images, vae, tmp_path))
    codec, originals = load_codec(vae), FolderSource("--data-path", str(images), 16)
    assert len(source) == len(originals) == COUNT and source.num_classes == 3
    mirrored = torch.arange(COUNT) % 2 == 1
    noise = torch.randn(COUNT, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    moments, labels = source.__getitems__(range(COUNT))
    samples = sample_posterior(moments, mirrored, noise, source.scale)
    for i, (image, label) in enumerate(originals):
        for view, x in enumerate((image, image.flip(-1))):
            with torch.no_grad():
                posterior = codec.vae.encode(x[None] / 127.5 - 1).latent_dist
            torch.testing.assert_close(moments[i, view, 0], posterior.mean[0])
            torch.testing.assert_close(moments[i, view, 1], posterior.std[0])
        seen = image.flip(-1) if mirrored[i] else image
        expected = codec.encode(seen[None], noise[i])
        torch.testing.assert_close(samples[i], expected[0])
        assert labels[i] == label


def test_float16_is_the_same_rounded(images, vae, tmp_path):
    exact, _ = cache_here(config(images, vae, tmp_path / "a")).__getitems__(range(COUNT))
    source = cache_here(config(images, vae, tmp_path / "b", dtype="float16"))
    rounded, _ = source.__getitems__(range(COUNT))
    assert torch.equal(rounded, exact.half())


def test_images_of_every_mode(vae, tmp_path):
    modes = {"L": "png", "LA": "png", "P": "png", "RGBA": "png", "CMYK": "jpg", "1": "png"}
    for i, (mode, kind) in enumerate(modes.items()):
        path = tmp_path / "images" / "class" / f"{mode}.{kind}"
        save_image(path, i)
        with Image.open(path) as image:
            image = image.convert(mode)
        image.save(path)
        assert Image.open(path).mode == mode
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 20), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "images" / "class" / "sixteen.png")
    source = cache_here(config(tmp_path / "images", vae, tmp_path / "cache"))
    assert len(source) == len(modes) + 1
    codec, originals = load_codec(vae), FolderSource("--data-path", str(tmp_path / "images"), 16)
    for i, (image, _) in enumerate(originals):
        expected = codec.encode(image[None], torch.zeros(1, 4, 8, 8))[0]
        mean = source[i][0][0, 0]
        torch.testing.assert_close(mean * codec.scale, expected, rtol=1e-4, atol=1e-5)


# --- parquet


def write_parquet(folder: Path, labels: list[int], bad: tuple[int, ...] = ()) -> None:
    import datasets

    folder.mkdir()
    rows = []
    for i in range(len(labels)):
        save_image(folder.parent / "one.png", i)
        data = (folder.parent / "one.png").read_bytes()
        rows.append({"bytes": data[: len(data) // 2] if i in bad else data, "path": None})
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=4))
    table = datasets.Dataset.from_dict({"image": rows, "label": labels}, features=features)
    table.to_parquet(folder / "train-00000-of-00001.parquet")


def test_parquet_files(vae, tmp_path):
    write_parquet(tmp_path / "rows", [0, 3, 1, 2, 0], bad=(3,))
    settings = config(None, vae, tmp_path / "out", dataset_name=str(tmp_path / "rows"))
    settings = dataclasses.replace(settings, data_path=None, skip_unreadable=True)
    source = cache_here(settings)
    assert source.labels.tolist() == [0, 3, 1, 0] and source.num_classes == 4
    assert source.manifest["unreadable"] == [{"index": 3, "image": "row 3"}]


def test_labels_outside_the_classes_are_refused(vae, tmp_path):
    write_parquet(tmp_path / "rows", [0, 3, -1, 2, -1])
    settings = config(None, vae, tmp_path / "out", dataset_name=str(tmp_path / "rows"))
    settings = dataclasses.replace(settings, data_path=None)
    with pytest.raises(ValueError, match=r"row 2 .*label -1, its features say there are 4 .*\(2 "):
        Caching(settings, 0, 1)


# --- unreadable images


def damage_images(folder: Path) -> list[Path]:
    """Zero bytes, text, half a JPEG, half a PNG: one in each of four shards."""
    paths = [folder / "class0" / "01.png", folder / "class0" / "06.png"]
    paths += [folder / "class1" / "11.jpg", folder / "class2" / "25.png"]
    (folder / "class1" / "11.png").unlink()
    save_image(paths[2], 11)
    paths[0].write_bytes(b"")
    paths[1].write_text("this is not an image")
    for path in paths[2:]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return paths


def test_unreadable_images_are_all_listed_and_fail_the_run(vae, tmp_path):
    images, out = make_images(tmp_path / "images"), tmp_path / "out"
    bad = damage_images(images)
    done = run(SCRIPT, *flags(images, vae, out))
    assert done.returncode == 1
    listed = [line for line in done.stderr.splitlines() if line.startswith("unreadable: ")]
    assert [line.split(": ")[1] for line in listed] == [str(path) for path in bad]
    assert f"4 of {COUNT} images cannot be read" in done.stderr
    assert not (out / "manifest.json").exists()
    with pytest.raises(ValueError, match="not complete"):
        LatentSource(out)


def test_mended_images_are_taken_and_nothing_else_is_redone(vae, tmp_path, capsys):
    images, out = make_images(tmp_path / "images"), tmp_path / "out"
    good = {path: path.read_bytes() for path in images.glob("*/*")}
    bad = [images / "class0" / "01.png", images / "class2" / "25.png"]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(good[bad[1]][:99])
    with pytest.raises(SystemExit):
        main(config(images, vae, out))
    said = capsys.readouterr().err
    assert "error: 2 of 26 images cannot be read" in said and all(str(path) in said for path in bad)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("moments-*")}
    for path in bad:
        path.write_bytes(good[path])
    main(config(images, vae, out))
    redone = {n for n, time in times.items() if (out / n).stat().st_mtime_ns != time}
    assert redone == {"moments-00000.npy", "moments-00006.npy"}
    main(config(images, vae, tmp_path / "undamaged"))
    assert content(out) == content(tmp_path / "undamaged")


def test_skipped_images_are_left_out_listed_and_not_replaced(images, vae, tmp_path):
    whole, _ = cache_here(config(images, vae, tmp_path / "whole")).__getitems__(range(COUNT))
    damaged, out = make_images(tmp_path / "images"), tmp_path / "out"
    bad = [path.relative_to(damaged) for path in damage_images(damaged)]
    settings = config(damaged, vae, out, skip_unreadable=True)
    source = cache_here(settings, world_size=2)
    indices = [1, 6, 11, 25]
    listed = [(entry["index"], entry["image"]) for entry in source.manifest["unreadable"]]
    assert listed == [(i, str(path)) for i, path in zip(indices, bad, strict=True)]
    kept = [i for i in range(COUNT) if i not in indices]
    moments, labels = source.__getitems__(range(len(kept)))
    assert len(source) == len(kept) == COUNT - 4
    torch.testing.assert_close(moments, whole[kept], rtol=1e-4, atol=1e-5)  # in other batches
    assert labels.tolist() == [i * 3 // COUNT for i in kept]
    before = content(out)
    main(dataclasses.replace(settings, skip_unreadable=False))  # complete: nothing to do or say
    assert content(out) == before


def test_nothing_readable_is_an_error(vae, tmp_path, capsys):
    (tmp_path / "images" / "class").mkdir(parents=True)
    (tmp_path / "images" / "class" / "a.png").write_bytes(b"")
    with pytest.raises(SystemExit):
        main(config(tmp_path / "images", vae, tmp_path / "out", skip_unreadable=True))
    assert "error: 1 of 1 images cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_failing_file_system_does_not_pass_for_bad_images(vae, tmp_path, capsys):
    images = make_images(tmp_path / "images")
    (images / "class1" / "12.png").unlink()
    (images / "class1" / "12.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(SystemExit):
        main(config(images, vae, tmp_path / "out", skip_unreadable=True))
    said = capsys.readouterr().err
    assert "no such file" in said and "12.png" in said and "same command continues" in said
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- disks


def test_a_disk_too_small_is_refused_before_anything_is_written(images, vae, tmp_path, monkeypatch):
    needed = COUNT * (2 * 2 * 4 * 8 * 8 * 4 + 8) + 7 * 2 * 128  # rows, labels, headers
    usage = type("Usage", (), {"free": needed + 1_000_000 - 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    settings = config(images, vae, tmp_path / "out", min_free_disk=0.001)
    message = rf"{needed / 1e9:.3g} GB needed and {usage.free / 1e9:.3g} GB free, of which --min-"
    with pytest.raises(ValueError, match=message):
        Caching(settings, 0, 1)
    assert not (tmp_path / "out").exists()
    usage.free += 1
    Caching(settings, 0, 1)


def test_a_full_disk_ends_the_run_and_loses_nothing(images, vae, tmp_path, monkeypatch, capsys):
    written = []

    class FullDisk(ShardWriter):
        def add(self, *args):
            written.append(self.k)
            if self.k == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().add(*args)

    with monkeypatch.context() as patch:
        patch.setattr(cache_latents, "ShardWriter", FullDisk)
        with pytest.raises(SystemExit):
            main(config(images, vae, tmp_path / "out"))
    assert re.search(r"No space left on the disk.*same command continues", capsys.readouterr().err)
    assert set(written) == {0, 1, 2, 3}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npy")}
    assert len(times) == 3 * 2
    main(config(images, vae, tmp_path / "out"))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    main(config(images, vae, tmp_path / "whole"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


# --- what is refused


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("--vae, its weights: .* there, .* here", "another vae"),
        ("--image-size: 16 there, 8 here", dict(image_size=8)),
        ("--dtype: float32 there, float16 here", dict(dtype="float16")),
        ("--shard-size: 4 there, 5 here", dict(shard_size=5)),
        ("number of images: 26 there, 25 here; list of images", "one image less"),
        ("list of images and labels: .* there, .* here", "an image renamed"),
    ],
)
def test_a_cache_of_other_settings_is_not_continued(tmp_path, vae, message, changes):
    images, out = make_images(tmp_path / "images"), tmp_path / "out"
    Caching(config(images, vae, out), 0, 1)
    first = images / "class0" / "00.png"
    if changes == "one image less":
        first.unlink()
    elif changes == "an image renamed":
        first.rename(first.with_name("0.png"))
    elif changes == "another vae":
        vae = save_tiny_vae(tmp_path / "vae", seed=1)
    changes = changes if isinstance(changes, dict) else {}
    with pytest.raises(ValueError, match=message):
        Caching(config(images, vae, out, **changes), 0, 1)


def test_data_that_has_moved_is_the_same_data(images, vae, tmp_path):
    Caching(config(images, vae, tmp_path / "out"), 0, 1)
    moved = shutil.copytree(images, tmp_path / "moved")
    Caching(config(f"{moved}/", vae, tmp_path / "out"), 0, 1)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("--data-path and --dataset-name both", dict(dataset_name="digits")),
        ("--vae none: pixels need no cache", dict(vae="none")),
        ("--image-size 15 is not divisible by 2", dict(image_size=15)),
        ("--batch-size 0: it must be at least 1", dict(batch_size=0)),
        ("--shard-size 0: it must be at least 1", dict(shard_size=0)),
        ("--min-free-disk -1: it must be at least 0", dict(min_free_disk=-1)),
        ("an autoencoder needs RGB", dict(dataset_name="digits", data_path=None, image_size=8)),
        ("--data-path .*nowhere: no such folder", dict(data_path="nowhere")),
    ],
)
def test_wrong_settings_are_refused_and_write_nothing(images, vae, tmp_path, message, changes):
    settings = dataclasses.replace(config(images, vae, tmp_path / "out"), **changes)
    with pytest.raises(ValueError, match=message):
        Caching(settings, 0, 1)
    assert not list(tmp_path.iterdir())


def test_latents_that_do_not_fit_into_the_dtype_are_refused(
    images, vae, tmp_path, monkeypatch, capsys
):
    encode = cache_latents.encode_moments
    monkeypatch.setattr(cache_latents, "encode_moments", lambda *args: encode(*args) * 1e7)
    with pytest.raises(SystemExit):
        main(config(images, vae, tmp_path / "out", dtype="float16"))
    assert "not finite in float16; try --dtype float32" in capsys.readouterr().err
    main(config(images, vae, tmp_path / "out32"))


def test_commands_of_the_page_are_valid(monkeypatch):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "latents.md").read_text(), re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    calls = [shlex.split(line, comments=True) for line in lines if SCRIPT in line]
    for words in calls:
        monkeypatch.setattr("sys.argv", words[words.index(SCRIPT) :])
        check_cache_config(parse_command(CacheConfig))
    assert len(calls) == 3


def test_verifying_names_an_altered_shard(images, vae, tmp_path, capsys):
    cache_here(config(images, vae, tmp_path))
    main(CacheConfig(out=str(tmp_path), verify=True))
    assert f"{COUNT} images in 7 shards, all checksums hold" in capsys.readouterr().out
    path = tmp_path / "moments-00002.npy"
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    with pytest.raises(SystemExit) as end:
        main(CacheConfig(out=str(tmp_path), verify=True))
    assert end.value.code == 2 and "moments-00002.npy: altered" in capsys.readouterr().err
