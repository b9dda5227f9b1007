"""Latent caches and images that were altered, each met by the check that it is for."""

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from hostile.row import IMAGES, LATENTS, SCORE_PIXELS, Row
from PIL import Image


def alter_cache(change: Callable[[dict, Path], object]):
    """Prepare latents/: the good cache with a change to its manifest or files."""

    def prepare(here: Path, box: Path) -> None:
        folder = here / "latents"
        shutil.copytree(box / "latents", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest, folder)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return prepare


def set_labels(values: list[int]):
    def change(manifest: dict, folder: Path) -> None:
        path = folder / manifest["shards"][0]["labels"]
        labels = np.load(path)
        labels[: len(values)] = values
        np.save(path, labels)

    return change


def elsewhere(name: str, path: str):
    """The shard's file, said to lie outside the folder, where it does lie."""

    def change(manifest: dict, folder: Path) -> None:
        shard = manifest["shards"][0]
        target = folder.parent / "outside.npy"
        shutil.move(folder / shard[name], target)
        shard[name] = path.format(target=target)

    return change


SETTINGS = {  # of the manifest: a value that is not its
    "codec": None, "codec_fingerprint": [{}], "scaling_factor": "many", "image_size": 1.5,
    "latent_channels": -4, "latent_size": True, "dtype": ["float16"], "num_classes": None,
    "images": "many", "source": None, "source_fingerprint": 7, "shard_size": 2**60,
    "count": "many", "unreadable": "many", "shards": {},
}  # fmt: skip


def settings(**values):
    return lambda manifest, folder: manifest.update(values)


def of_shard(**values):
    return lambda manifest, folder: manifest["shards"][0].update(values)


NO_NAME = "which is not the name of a file in its folder"
LATENT_CHANGES = {
    "of another version": (settings(version=7), "version 7 of the format, this program reads"),
    "of another kind": (settings(format="photographs"), "or a latent cache .no folders in it"),
    "dtype is unknown": (settings(dtype="int4"), "altered, dtype is 'int4'"),
    "scale is infinite": (settings(scaling_factor=float("inf")), "scaling_factor is 'inf'"),
    "image_size is 0": (settings(image_size=0), "altered, image_size is 0"),
    "latent_size is huge": (settings(latent_size=10**6), "altered, latent_size is 1000000"),
    "counts other images": (settings(count=5), "altered, 8 images in its shards, count is 5"),
    "had other images": (settings(images=5), "altered, images is 5"),
    "a shard is no record": (settings(shards=[7]), "altered, shard 0 is '7'"),
    "a shard without checksums": (of_shard(sha256=None), "altered, shard 0: sha256 is 'None'"),
    "a checksum is a number": (
        of_shard(sha256={"moments": 7, "labels": ""}), "shard 0: checksum of moments is '7'"
    ),
    "a shard without moments": (of_shard(moments=None), "altered, shard 0: moments is 'None'"),
    "a shard without labels": (of_shard(labels=None), "altered, shard 0: labels is 'None'"),
    "a shard counts a text": (of_shard(count="many"), "altered, shard 0: count is 'many'"),
    "a shard is twice there": (
        lambda m, f: m["shards"].append(m["shards"][0]), "shard 1: first is 0, 8 come before it"
    ),
    "moments elsewhere": (elsewhere("moments", "../outside.npy"), NO_NAME),
    "labels elsewhere": (elsewhere("labels", "{target}"), NO_NAME),
    "moments are a folder": (of_shard(moments="."), NO_NAME),
    "moments are cut": (
        lambda m, f: cut_file(f / m["shards"][0]["moments"]), r"moments-00000\.npy: truncated; remo"
    ),
    "moments have no header": (
        lambda m, f: (f / m["shards"][0]["moments"]).write_bytes(b"hello"), "or not an array"
    ),
    "labels are longer": (
        lambda m, f: (f / m["shards"][0]["labels"]).open("ab").write(b"more"), "longer than its he"
    ),
    "labels are gone": (
        lambda m, f: (f / m["shards"][0]["labels"]).unlink(), r"labels-00000\.npy: missing; give"
    ),
    "labels are enormous": (set_labels([2**62]), "altered: label 4611686018427387904 in row 0"),
    "labels are negative": (set_labels([0, -1]), "altered: label -1 in row 1, and 2 classes"),
    "labels are floats": (
        lambda m, f: np.save(f / m["shards"][0]["labels"], np.zeros(8)), "it must be int64"
    ),
    "moments in Fortran order": (
        lambda m, f: np.save(
            f / m["shards"][0]["moments"],
            np.asfortranarray(np.load(f / m["shards"][0]["moments"])),
        ),
        r"float16 \(8, 2, 2, 4, 8, 8\), it must be float16",
    ),
}  # fmt: skip


def latent_rows() -> Iterator[Row]:
    train = f"{LATENTS} --data-path {{here}}/latents"
    for key, value in SETTINGS.items():
        words = rf"manifest\.json: altered, without \['{key}'\]"
        yield Row(f"latents without {key}", train, words,
                  alter_cache(lambda m, f, key=key: m.pop(key)))  # fmt: skip
        yield Row(f"latents {key} is {value}", train, rf"manifest\.json: altered, {key} is ['\"]",
                  alter_cache(settings(**{key: value})))  # fmt: skip
    for what, (change, words) in LATENT_CHANGES.items():
        yield Row(f"latents: {what}", train, f"latents.*{words}", alter_cache(change))

    def no_json(here: Path, box: Path) -> None:
        shutil.copytree(box / "latents", here / "latents")
        (here / "latents" / "manifest.json").write_text("{")

    yield Row("latents: the manifest is no JSON", train, r"manifest\.json: not JSON", no_json)
    flip = alter_cache(lambda m, f: flip_last(f / m["shards"][0]["moments"]))
    verify = "scripts/cache_latents.py --verify --out {here}/latents"
    yield Row("latents: a byte", verify, "altered, its checksum is not the manifest's", flip)

    @alter_cache
    def other_weights(manifest: dict, folder: Path) -> None:
        manifest["codec_fingerprint"] = "0" * 16

    def copied_codec(here: Path, box: Path) -> None:
        """A codec of another name is loaded; the cache's own need not be."""
        other_weights(here, box)
        shutil.copytree(box / "vae", here / "vae")

    yield Row("latents of another codec's weights", train.replace("{box}/vae", "{here}/vae"),
              "holds latents of another codec or size", copied_codec)  # fmt: skip
    yield Row("latents whose codec has changed",
              train.replace("--sample-every 0", "--sample-every 1"),
              "its weights are no longer those", other_weights)  # fmt: skip
    yield Row("latents through another codec", train.replace("{box}/vae", "none"),
              "--vae none: .*holds latents", alter_cache(lambda m, f: None))  # fmt: skip


def flip_last(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)


def cut_file(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 9])


def png(
    width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", cut=None
) -> bytes:
    """A PNG with this header, whatever its data; of them the first `cut` bytes, compressed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0)
    packed = zlib.compress(data)[:cut]
    parts = chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(dtype: type, value: float) -> bytes:
    """A TIFF of one channel, all of it of this value."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 16), value, dtype)).save(buffer, "TIFF")
    return buffer.getvalue()


BROKEN = {
    "is empty": (b"", "cannot identify"),
    "is a text": (b"hello", "cannot identify"),
    "is a bomb": (png(50_000, 50_000), r"2500000000 pixels\) exceeds limit"),
    "is a bomb below the limit of a bomb": (png(16_000, 8_000), "truncated"),
    "has no width": (png(0, 16), "cannot identify"),
    "has a negative width": (png(-16, 16), "exceeds limit"),
    "has half of its pixels": (png(16, 20, data=bytes(range(1, 50)) * 20, cut=30), "truncated"),
    "has an unknown colour type": (png(16, 16, colour=9, data=bytes(16 * 49)), "cannot identify"),
    "has pixels that are floats": (tiff(np.float32, 0.5), "floating-point pixels, whose range"),
    "has greys of 32 bits": (tiff(np.int32, 70_000), "int32 pixels from 70000 to 70000"),
    "is of a format that starts programs": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
                                            "cannot identify"),
}  # fmt: skip


def image_rows() -> Iterator[Row]:
    train = f"{IMAGES} --data-path {{here}}/images"
    score = SCORE_PIXELS.replace(
        "{box}/rgb.npz --ref {box}/rgb.npz", "{here}/images --ref {box}/images"
    )
    for what, (content, words) in BROKEN.items():

        def prepare(here: Path, box: Path, content: bytes = content) -> None:
            shutil.copytree(box / "images", here / "images")
            (here / "images" / "pear" / "1.png").write_bytes(content)

        says = rf"pear/1\.png: not a readable image .*({words})"
        yield Row(f"train: an image {what}", train, says, prepare)
        if "below" not in what:
            yield Row(f"score: an image {what}", score, f"{says}.*; repair or remove it", prepare)

    def strip(here: Path, box: Path) -> None:
        shutil.copytree(box / "images", here / "images")
        height = 3_000_000  # 8 x 24,000,000 pixels after resizing
        content = png(1, height, data=bytes(1 + 3) * height)
        (here / "images" / "pear" / "1.png").write_bytes(content)

    yield Row("train: an image is too long for its crop", train, "too long for a crop of 8", strip)


def data_rows() -> list[Row]:
    return [*latent_rows(), *image_rows()]
