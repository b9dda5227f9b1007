"""The latent cache: what is written is what is read, and damage is noticed."""

import dataclasses
import json
import os
import pickle
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import ROOT, forked_python, save_tiny_vae
from torch.utils.data import DataLoader

from data.cached_codec import weights_fingerprint
from data.latent_manifest import CacheSettings, is_latent_cache
from data.latent_writer import CacheWriter, ShardWriter
from data.latents import LatentSource, encode_moments, sample_posterior
from models.codecs import PixelCodec, VAECodec
from runtime.command import RunError

SETTINGS = CacheSettings(
    codec="ema",
    codec_fingerprint="0123456789abcdef",
    scaling_factor=0.5,
    image_size=16,
    latent_channels=3,
    latent_size=2,
    dtype="float16",
    num_classes=7,
    images=23,
    source="images",
    source_fingerprint="fedcba9876543210",
    shard_size=5,
)
MISSING = {4, 10, 11, 12, 13, 14, 22}  # for the caches with unreadable images: a whole shard, ends


def row(i: int, settings: CacheSettings) -> np.ndarray:
    """Moments of image i."""
    values = np.random.default_rng(i).standard_normal(settings.row_shape)
    return values.astype(settings.dtype)


def write_shard(cache: CacheWriter, k: int, unreadable=frozenset(), batch: int = 2) -> None:
    with ShardWriter(cache, k) as shard:
        images = cache.images_of(k)
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            good = [i for i in part if i not in unreadable]
            bad = [dict(index=i, image=f"{i}.png", error="?") for i in part if i in unreadable]
            rows = [row(i, cache.settings) for i in good]
            moments = np.reshape(rows, (len(good), *cache.settings.row_shape))
            labels = [i % cache.settings.num_classes for i in good]
            shard.add(moments.astype(cache.settings.dtype), labels, bad)


def write_cache(root, settings=SETTINGS, unreadable=frozenset()) -> CacheWriter:
    cache = CacheWriter(root, settings)
    cache.check_folder()
    cache.prepare()
    for k in range(cache.shards):
        if not cache.finished(k):
            write_shard(cache, k, unreadable)
    assert cache.complete()
    cache.finish()
    return cache


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def root(tmp_path):
    write_cache(tmp_path / "cache")
    return tmp_path / "cache"


# --- reading


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_batches_across_shards_are_the_rows_that_were_written(tmp_path, dtype):
    settings = dataclasses.replace(SETTINGS, dtype=dtype)
    write_cache(tmp_path, settings)
    source = LatentSource(tmp_path)
    order = np.random.default_rng(0).permutation(23).tolist()
    moments, labels = source.__getitems__(order)
    assert len(source) == 23 and moments.dtype == getattr(torch, dtype)
    assert np.array_equal(moments.numpy(), np.stack([row(i, settings) for i in order]))
    assert labels.dtype == torch.int64 and labels.tolist() == [i % 7 for i in order]
    one_by_one = [source[i] for i in order]
    assert torch.equal(moments, torch.stack([moments for moments, _ in one_by_one]))
    assert labels.tolist() == [label for _, label in one_by_one]


def test_images_that_were_left_out_leave_no_gap(tmp_path):
    write_cache(tmp_path, unreadable=MISSING)
    source = LatentSource(tmp_path)
    kept = [i for i in range(23) if i not in MISSING]
    moments, labels = source.__getitems__(range(len(kept)))
    assert len(source) == len(kept)
    assert np.array_equal(moments.numpy(), np.stack([row(i, SETTINGS) for i in kept]))
    assert labels.tolist() == [i % 7 for i in kept]
    listed = [(entry["index"], entry["image"]) for entry in source.manifest["unreadable"]]
    assert listed == [(i, f"{i}.png") for i in sorted(MISSING)]


def test_source_says_what_it_holds(root):
    source = LatentSource(root)
    assert (source.channels, source.latent_size, source.image_size) == (3, 2, 16)
    assert (source.num_classes, source.codec, source.scale) == (7, "ema", 0.5)
    assert source.latents and source.mirrors


@pytest.mark.parametrize("index", [-1, 23])
def test_index_outside_is_an_error(root, index):
    with pytest.raises(IndexError, match="holds 23 latents"):
        LatentSource(root)[index]


def as_it_is(batch):
    return batch


def test_workers_deliver_whole_batches(root):
    source = LatentSource(root)
    source[0]
    order = np.random.default_rng(1).permutation(23)
    batches = [order[i : i + 6].tolist() for i in range(0, 23, 6)]
    loader = DataLoader(source, batch_sampler=batches, collate_fn=as_it_is, num_workers=2)
    for (moments, labels), indices in zip(loader, batches, strict=True):
        assert np.array_equal(moments.numpy(), np.stack([row(i, SETTINGS) for i in indices]))
        assert labels.tolist() == [i % 7 for i in indices]


def test_pickling_leaves_the_latents_where_they_are(tmp_path):
    write_cache(tmp_path, dataclasses.replace(SETTINGS, latent_size=64))
    source = LatentSource(tmp_path)
    moments, label = source[20]
    pickled = pickle.dumps(source)
    assert len(pickled) < 10_000 < source.settings.array_bytes("moments", 1)
    again, same = pickle.loads(pickled)[20]
    assert torch.equal(moments, again) and label == same


READ_ALL = """
import sys, numpy as np
from data.latents import LatentSource

def anonymous():
    rows = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
    return int(rows["RssAnon"].split()[0]) / 1024

source = LatentSource(sys.argv[1])
order = np.random.default_rng(0).permutation(len(source))
source.__getitems__(order[:64])
before = anonymous()
total = sum(len(source.__getitems__(order[i : i + 64])[1]) for i in range(0, len(order), 64))
assert total == len(source)
print(anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
def test_reading_everything_needs_no_memory(tmp_path):
    settings = dataclasses.replace(
        SETTINGS, images=2048, shard_size=256, latent_channels=4, latent_size=32
    )
    cache = CacheWriter(tmp_path, settings)
    cache.prepare()
    for k in range(cache.shards):
        with ShardWriter(cache, k) as shard:
            shard.add(np.full((256, *settings.row_shape), k, np.float16), [0] * 256, [])
    assert cache.complete() and cache.finish()
    done = subprocess.run(
        [forked_python(), "-c", READ_ALL, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 16  # of 64 MiB that were read


# --- sampling


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """An autoencoder of SD's kind, random and small: 4 latent channels, factor 2."""
    folder = tmp_path_factory.mktemp("vae")
    save_tiny_vae(folder, scaling_factor=0.3)
    return VAECodec(str(folder))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float16, 2**-10)])
def test_a_sample_is_what_the_codec_draws_of_the_image_or_its_mirror(codec, images, dtype, rtol):
    mirrored = torch.tensor([True, False, False, True, True, False])
    noise = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    expected = codec.encode(seen, noise)
    moments = encode_moments(codec, images).to(dtype)
    assert moments.shape == (6, 2, 2, 4, 8, 8)
    x_1 = sample_posterior(moments, mirrored, noise, codec.scale)
    assert x_1.dtype == torch.float32
    torch.testing.assert_close(x_1, expected, rtol=rtol, atol=rtol * expected.abs().max().item())


def test_moments_are_unscaled_mean_and_std_of_image_and_mirror(codec, images):
    moments = encode_moments(codec, images)
    for view, x in enumerate((images, images.flip(-1))):
        with torch.no_grad():
            posterior = codec.vae.encode(x / 127.5 - 1).latent_dist
        torch.testing.assert_close(moments[:, view, 0], posterior.mean)
        torch.testing.assert_close(moments[:, view, 1], posterior.std)


def test_codec_and_size_must_be_those_of_the_cache(codec, tmp_path):
    fitting = dict(codec_fingerprint=weights_fingerprint(codec.vae), scaling_factor=codec.scale)
    for name, changes, message in (
        ("fits", {}, None),
        ("weights", {"codec_fingerprint": "0" * 16}, "--vae, its weights: 0000.*--vae ema"),
        ("scale", {"scaling_factor": 1.0}, "scaling factor: 1.0 there, 0.3 here"),
        ("size", {"image_size": 32}, "--image-size: 32 there, 16 here"),
    ):
        write_cache(tmp_path / name, dataclasses.replace(SETTINGS, **(fitting | changes)))
        source = LatentSource(tmp_path / name)
        if message is None:
            source.check_codec(codec, 16)
        else:
            with pytest.raises(ValueError, match=message):
                source.check_codec(codec, 16)
    with pytest.raises(ValueError, match=r"--vae none: .* holds latents; give --vae ema"):
        source.check_codec(PixelCodec(4), 16)


def test_fingerprint_is_of_every_weight(codec):
    before = weights_fingerprint(codec.vae)
    assert re.fullmatch("[0-9a-f]{16}", before) and before == weights_fingerprint(codec.vae)
    last = list(codec.vae.parameters())[-1]
    last.data[0] += 1
    assert weights_fingerprint(codec.vae) != before
    last.data[0] -= 1


# --- damage


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def other_shape(path: Path) -> None:
    np.save(path, np.load(path).reshape(-1, 1))


DAMAGES = {  # name: what is done to a file, what is said of it
    "missing": (lambda path: path.unlink(), "missing; give"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "truncated, or not an array"),
    "another file": (lambda path: path.write_text("hello, there " * 99), "not an array"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "longer than its header says"),
    "other shape": (other_shape, "it must be"),
}


@pytest.mark.parametrize("name", ["moments-00002.npy", "labels-00004.npy"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_when_the_cache_is_opened(root, name, damage):
    act, message = DAMAGES[damage]
    act(root / name)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}") as error:
        LatentSource(root)
    assert "command that made the cache" in str(error.value)


@pytest.mark.parametrize("name", ["moments-00003.npy", "labels-00000.npy"])
def test_altered_bytes_are_found_by_checksum(root, name):
    source = LatentSource(root)
    source.verify(checksums=True)
    flip_a_byte(root / name)
    source.verify()
    with pytest.raises(ValueError, match=rf"{name}: altered.*remove it and give"):
        source.verify(checksums=True)


def edit_manifest(root: Path, **changes) -> None:
    manifest = json.loads((root / "manifest.json").read_text()) | changes
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (root / "manifest.json").write_text(json.dumps(manifest))


MANIFESTS = {
    "not a cache": lambda root: (root / "manifest.json").unlink(),
    "not JSON; remove it": lambda root: (root / "manifest.json").write_text("{"),
    "version 2 of the format": lambda root: edit_manifest(root, version=2),
    r"without \['scaling_factor'\]": lambda root: edit_manifest(root, scaling_factor=None),
    r"manifest\.json: altered": lambda root: edit_manifest(root, count=22),
    "no manifest.json in it; not": lambda root: edit_manifest(root, format="of something else"),
}


@pytest.mark.parametrize("message", MANIFESTS)
def test_a_bad_manifest_is_refused(root, message):
    MANIFESTS[message](root)
    with pytest.raises(ValueError, match=message):
        LatentSource(root)


def test_caches_are_told_from_other_folders(root, tmp_path):
    unfinished, foreign = tmp_path / "unfinished", tmp_path / "foreign"
    CacheWriter(unfinished, SETTINGS).prepare()
    foreign.mkdir()
    (foreign / "manifest.json").write_text("[]")
    assert is_latent_cache(root) and is_latent_cache(unfinished)
    assert not is_latent_cache(foreign) and not is_latent_cache(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no manifest\.json in it; it is not complete: give"):
        LatentSource(unfinished)


# --- writing


@pytest.mark.parametrize("unreadable", [set(), MISSING])
def test_interrupted_writing_continues_to_the_same_bytes(tmp_path, unreadable):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    write_cache(whole, unreadable=unreadable)
    for k in (3, 0):  # each by another process, which ends in the middle of its next shard
        cache = CacheWriter(parts, SETTINGS)
        cache.prepare()
        write_shard(cache, k, unreadable)
        with pytest.raises(KeyboardInterrupt), ShardWriter(cache, k + 1) as shard:
            shard.add(row(k, SETTINGS)[None], [0], [])
            raise KeyboardInterrupt
    fresh = CacheWriter(parts, SETTINGS)
    assert [k for k in range(5) if fresh.finished(k)] == [0, 3]
    before = (parts / "moments-00003.npy").stat().st_mtime_ns
    write_cache(parts, unreadable=unreadable)
    assert content(whole) == content(parts)
    assert (parts / "moments-00003.npy").stat().st_mtime_ns == before


def test_space_needed_is_what_will_be_written(tmp_path):
    cache = CacheWriter(tmp_path, SETTINGS)
    needed = cache.bytes_needed()
    cache.prepare()
    write_shard(cache, 1)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.npy"))
    assert cache.images_written() == 5 and cache.bytes_needed() == needed - written
    write_cache(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.npy")) == needed
    assert CacheWriter(tmp_path, SETTINGS).bytes_needed() == 0


@pytest.mark.parametrize("name", ["moments-00002.npy", "labels-00001.npy"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_writing_again_makes_a_lost_shard_anew_and_no_other(root, name, damage):
    before = content(root)
    times = {path: path.stat().st_mtime_ns for path in root.glob("*.npy")}
    DAMAGES[damage][0](root / name)
    write_cache(root)
    assert content(root) == before
    redone = {path.name[-9:] for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert redone == {name[-9:]}


def test_unreadable_images_are_read_again_after_a_rejection(tmp_path):
    cache = CacheWriter(tmp_path, SETTINGS)
    cache.prepare()
    for k in range(cache.shards):
        write_shard(cache, k, unreadable={7})
    assert cache.complete()
    assert cache.unreadable() == [dict(index=7, image="7.png", error="?")]
    cache.reject()
    fresh = CacheWriter(tmp_path, SETTINGS)
    assert [k for k in range(5) if not fresh.finished(k)] == [1]


@pytest.mark.parametrize(
    ("flag", "changes"),
    [
        ("--vae, its weights: 0123456789abcdef there, 1 here", dict(codec_fingerprint="1")),
        ("--vae, its scaling factor: 0.5 there, 0.6 here", dict(scaling_factor=0.6)),
        ("--image-size: 16 there, 32 here", dict(image_size=32)),
        ("--dtype: float16 there, float32 here", dict(dtype="float32")),
        ("--shard-size: 5 there, 6 here", dict(shard_size=6)),
        ("number of images: 23 there, 24 here", dict(images=24)),
        ("number of classes: 7 there, 8 here", dict(num_classes=8)),
        ("list of images and labels: fedc.* there, 2 here", dict(source_fingerprint="2")),
    ],
)
def test_other_settings_do_not_mix(tmp_path, root, flag, changes):
    unfinished = tmp_path / "unfinished"
    CacheWriter(unfinished, SETTINGS).prepare()
    for folder in (unfinished, root):
        before = content(folder)
        with pytest.raises(
            ValueError, match=rf"{folder.name} is a cache of other settings \({flag}"
        ):
            CacheWriter(folder, dataclasses.replace(SETTINGS, **changes)).check_folder()
        assert content(folder) == before


def test_names_of_the_same_codec_and_data_may_differ(root):
    CacheWriter(root, dataclasses.replace(SETTINGS, codec="x/ema", source="y")).check_folder()


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="holds other files"):
        CacheWriter(tmp_path, SETTINGS).check_folder()
    with pytest.raises(ValueError, match="where a folder is needed"):
        CacheWriter(tmp_path / "thesis.txt", SETTINGS).check_folder()


def test_two_runs_do_not_write_the_same_shard(tmp_path):
    cache = CacheWriter(tmp_path, SETTINGS)
    cache.prepare()
    with ShardWriter(cache, 4) as shard:
        shard.add(row(20, SETTINGS)[None], [6], [])
        with pytest.raises(RunError, match=r"moments-00004\.npy: another run is writing it"):
            ShardWriter(CacheWriter(tmp_path, SETTINGS), 4).__enter__()
        shard.add(np.stack([row(i, SETTINGS) for i in (21, 22)]), [0, 1], [])
    assert cache.finished(4)


def shard_entry(root: Path, **changes) -> None:
    shards = json.loads((root / "manifest.json").read_text())["shards"]
    shards[1] = {k: v for k, v in (shards[1] | changes).items() if v != "gone"}
    edit_manifest(root, shards=shards)


def relabel(root: Path, label: int) -> None:
    labels = np.load(root / "labels-00002.npy")
    labels[3] = label
    np.save(root / "labels-00002.npy", labels)


ALTERED = {  # what was altered: what is done, what is said
    "elsewhere": (lambda r: shard_entry(r, moments="../elsewhere"), "not the name of a file"),
    "absolute": (lambda r: shard_entry(r, labels="/etc/hosts"), "not the name of a file"),
    "no name": (lambda r: shard_entry(r, moments=7), "shard 1: moments is '7'"),
    "no first": (lambda r: shard_entry(r, first="gone"), "shard 1: first is None"),
    "other first": (lambda r: shard_entry(r, first=4), "first is 4, 5 come before"),
    "no count": (lambda r: shard_entry(r, count="gone"), "shard 1: count"),
    "count": (lambda r: shard_entry(r, count=-5), "shard 1: count is '-5'"),
    "no checksum": (lambda r: shard_entry(r, sha256={}), "checksum of moments"),
    "no checksums": (lambda r: shard_entry(r, sha256="gone"), "shard 1: sha256"),
    "shards": (lambda r: edit_manifest(r, shards=[3]), "shard 0 is '3'"),
    "no shards": (lambda r: edit_manifest(r, shards=[]), "altered, 0 images in its shards"),
    "all shards": (lambda r: edit_manifest(r, shards="x"), "shards is 'x'"),
    "version": (lambda r: edit_manifest(r, version=None), "version None of the format"),
    "dtype": (lambda r: edit_manifest(r, dtype="object"), "dtype is 'object'"),
    "side": (lambda r: edit_manifest(r, latent_size=10**9), "latent_size is 1000000000"),
    "scale": (lambda r: edit_manifest(r, scaling_factor="1"), "scaling_factor is '1'"),
    "scale nan": (lambda r: edit_manifest(r, scaling_factor=float("nan")), "scaling_factor is"),
    "classes": (lambda r: edit_manifest(r, num_classes=2.5), "num_classes is '2.5'"),
    "no unreadable": (lambda r: edit_manifest(r, unreadable=None), r"without \['unreadable'\]"),
    "nested": (lambda r: (r / "manifest.json").write_text("[" * 10**5), "not JSON"),
    "label": (lambda r: relabel(r, 7), r"labels-00002\.npy: altered: label 7 in row 3, and 7 cla"),
    "negative label": (lambda r: relabel(r, -1), "label -1 in row 3"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_cache_is_refused_when_it_is_opened(root, what):
    act, message = ALTERED[what]
    act(root)
    with pytest.raises(ValueError, match=message) as error:
        LatentSource(root)
    assert str(root) in str(error.value)


def test_an_altered_record_of_a_shard_is_not_believed(tmp_path):
    cache = CacheWriter(tmp_path, SETTINGS)
    cache.prepare()
    write_shard(cache, 1)
    record = tmp_path / "progress" / "00001.json"
    content = json.loads(record.read_text())
    assert CacheWriter(tmp_path, SETTINGS).finished(1)
    for changes in ({"count": "5"}, {"count": 4}, {"sha256": None}, {"unreadable": 0}):
        record.write_text(json.dumps(content | changes))
        assert not CacheWriter(tmp_path, SETTINGS).finished(1)
