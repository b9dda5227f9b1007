"""The files of a latent cache: their format, and how each of them is read and checked.

    FOLDER/manifest.json         what it holds: CacheSettings, count, shards and their checksums
    FOLDER/moments-00000.npy     (n, 2, 2, C, h, w): [as it is | mirrored] x [mean | std]
    FOLDER/labels-00000.npy      (n,) int64
    FOLDER/progress/             until it is complete: the settings and a record of each shard

Files may have been damaged or altered: everything that is read is checked, and nothing outside the
folder is opened. This file does not import torch.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from runtime import schema
from runtime.npz import nbytes, read_header, readable
from runtime.schema import check_file_name, check_value, from_dict

FORMAT, VERSION = "latent cache", 1
MANIFEST, PROGRESS = "manifest.json", "progress"
AGAIN = "the scripts/cache_latents.py command that made the cache"
LARGEST_SIDE = 2**16  # of images and latents


@dataclass(frozen=True)
class CacheSettings:
    """Settings that determine the content of a cache, and the names of its data and codec."""

    codec: str  # as --vae names it
    codec_fingerprint: str  # of the autoencoder's weights
    scaling_factor: float
    image_size: int
    latent_channels: int
    latent_size: int
    dtype: str  # float16 or float32
    num_classes: int
    images: int  # in the source, readable or not
    source: str
    source_fingerprint: str  # of the list of images and labels
    shard_size: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        return 2, 2, self.latent_channels, self.latent_size, self.latent_size

    def array_bytes(self, name: str, count: int) -> int:
        """Return the size of the moments' or labels' file of `count` images, in bytes."""
        shape, dtype = self.layout(name, count)
        return len(npy_header(shape, dtype)) + int(np.prod(shape)) * dtype.itemsize

    def layout(self, name: str, count: int) -> tuple[tuple[int, ...], np.dtype]:
        if name == "labels":
            return (count,), np.dtype(np.int64)
        return (count, *self.row_shape), np.dtype(self.dtype)


COMPARED = {  # setting: how messages call it. Names and places may change, these may not.
    "codec_fingerprint": "--vae, its weights",
    "scaling_factor": "--vae, its scaling factor",
    "image_size": "--image-size",
    "dtype": "--dtype",
    "shard_size": "--shard-size",
    "images": "number of images",
    "num_classes": "number of classes",
    "source_fingerprint": "list of images and labels",
}


def differences(there: dict, here: dict) -> str:
    """Return a text that lists where `there` differs from `here`, empty if nothing differs."""
    differing = [key for key in COMPARED if key in here and there.get(key) != here[key]]
    return "; ".join(
        f"{COMPARED[key]}: {there.get(key)} there, {here[key]} here" for key in differing
    )


def is_latent_cache(root: str | Path) -> bool:
    """Return whether a folder is a latent cache, complete or not."""
    return read_settings(Path(root)) is not None


def read_settings(root: Path) -> dict | None:
    # the manifest twice: the settings vanish once it has appeared
    files = root / MANIFEST, root / PROGRESS / "settings.json", root / MANIFEST
    return next((settings for settings in map(read_json, files) if settings), None)


def read_manifest(root: Path) -> dict:
    """Return the manifest of a complete cache; raise `ValueError` unless there is one."""
    manifest = read_json(root / MANIFEST)
    if manifest is None:
        why = f"it is not complete: give {AGAIN} again" if is_latent_cache(root) else "not a cache"
        raise ValueError(f"latent cache {root}: no {MANIFEST} in it; {why}")
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{root / MANIFEST}: version {manifest.get('version')} of the format, this program "
            f"reads version {VERSION}; make the cache again"
        )
    try:
        check_manifest(manifest)
    except ValueError as error:
        raise damaged(root / MANIFEST, f"altered, {error}") from None
    return manifest


def check_manifest(manifest: dict) -> None:
    """Raise `ValueError` unless `CacheWriter.finish` could have written this manifest."""
    settings = from_dict(CacheSettings, manifest)
    if settings.dtype not in ("float16", "float32"):
        raise ValueError(f"dtype is {settings.dtype!r}")
    for name in ("image_size", "latent_channels", "latent_size"):
        if not 1 <= getattr(settings, name) <= LARGEST_SIDE:
            raise ValueError(f"{name} is {getattr(settings, name)}")
    for name, kind in (("count", int), ("shards", list), ("unreadable", list)):
        if name not in manifest:
            raise ValueError(f"without ['{name}']")
        check_value(name, manifest[name], kind)
    first = 0
    for k, shard in enumerate(manifest["shards"]):
        check_shard_entry(f"shard {k}", shard, first)
        first += shard["count"]
    if not first or first != manifest["count"]:
        raise ValueError(f"{first} images in its shards, count is {manifest['count']}")
    if first + len(manifest["unreadable"]) != settings.images:
        raise ValueError(f"images is {settings.images}")


def check_shard_entry(name: str, shard: dict, first: int) -> None:
    check_value(name, shard, dict)
    checksums: Any = shard.get("sha256")
    check_value(f"{name}: sha256", checksums, dict)
    for array in ("moments", "labels"):
        check_file_name(f"{name}: {array}", shard.get(array))
        check_value(f"{name}: checksum of {array}", checksums.get(array), str)
    check_value(f"{name}: count", shard.get("count"), int)
    if shard.get("first") != first:
        raise ValueError(f"{name}: first is {shard.get('first')}, {first} come before it")


def check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise `ValueError` unless the file is there with exactly this header and size."""
    try:
        with readable(path, ".npy"), open(path, "rb") as file:
            *there, fortran = read_header(file)
            start = file.tell()
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; give {AGAIN} again, it makes it anew") from None
    except ValueError:
        raise damaged(path, "truncated, or not an array") from None
    if there != [shape, dtype] or fortran:
        raise damaged(path, f"{there[1]} {there[0]}, it must be {dtype} {shape}")
    left = file_size(path) - start - nbytes(shape, dtype)
    if left:
        raise damaged(path, "truncated" if left < 0 else "longer than its header says")


def damaged(path: Path, how: str) -> ValueError:
    return ValueError(f"{path}: {how}; remove it and give {AGAIN} again, it makes it anew")


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict | None:
    """Read a JSON file of a cache, None if it is missing; raise `ValueError` if it is damaged."""
    try:
        content = schema.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise damaged(path, str(error)) from None
    ours = isinstance(content, dict) and content.get("format") == FORMAT
    return content if ours else None


def to_json(content: dict) -> bytes:
    content = dict(format=FORMAT, version=VERSION) | content
    return (json.dumps(content, indent=2) + "\n").encode()
