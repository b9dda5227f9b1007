"""Writing of a latent cache by any number of processes that need not communicate.

The format is described in data/latent_manifest.py.
"""

import dataclasses
import fcntl
import os
import shutil
from pathlib import Path

import numpy as np

from data.latent_manifest import (
    MANIFEST,
    PROGRESS,
    CacheSettings,
    differences,
    file_sha256,
    file_size,
    is_latent_cache,
    npy_header,
    read_json,
    read_manifest,
    read_settings,
    to_json,
)
from runtime.command import RunError
from runtime.files import check_folder_writable, remove_leftovers, write_bytes
from runtime.locks import OutputLock, lock_output
from runtime.outcome import progressed
from runtime.schema import check_value

LOCK = "lock"  # in the folder of what is not finished


class CacheWriter:
    """The folder of a cache while processes write it, which need not communicate.

    Shard k has the images k S ... (k + 1) S - 1 of the source. Each file is written under another
    name and then renamed. The record of a shard comes last, so a shard with a record is complete.
    """

    def __init__(self, root: str | Path, settings: CacheSettings):
        self.root, self.settings = Path(root), settings
        self.progress = self.root / PROGRESS
        self.shards = -(-settings.images // settings.shard_size)
        self.records: dict[int, dict] = {}
        self.listed: dict | None = None

    def check_folder(self) -> None:
        """Raise `ValueError` if the folder holds anything else than this cache."""
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(
                f"--out {self.root}: {self.root.name} is a file, where a folder is needed; give "
                f"another path"
            )
        # listed before the settings are read: another process may be writing them
        present = {path.name for path in self.root.iterdir()} if self.root.exists() else set()
        there = read_settings(self.root)
        if there is None and present - {PROGRESS}:
            raise ValueError(f"--out {self.root}: holds other files; give a new or empty folder")
        different = differences(there, dataclasses.asdict(self.settings)) if there else ""
        if different:
            raise ValueError(
                f"--out {self.root} is a cache of other settings ({different}): "
                f"give another --out, or remove that folder"
            )

    def check_disk(self, min_free_disk: float) -> None:
        """Raise `ValueError` unless everything that is still to be written fits on the disk."""
        root = self.root.absolute()
        free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free
        needed = self.bytes_needed()
        if free - needed < min_free_disk * 1e9 and needed:
            raise ValueError(
                f"--out {self.root}: {needed / 1e9:.3g} GB needed and {free / 1e9:.3g} GB free, of "
                f"which --min-free-disk {min_free_disk:g} GB must remain; make room, or give --out "
                f"on another disk"
            )

    def lock(self) -> OutputLock:
        """Make this launch the only one that writes the cache.

        Raises `ValueError` when the folder cannot be written, or when another launch has it.
        """
        name = f"--out {self.root}"
        check_folder_writable(self.root, name)
        return lock_output(name, self.progress / LOCK, done=(self.root / MANIFEST).exists)

    def prepare(self) -> None:
        """Make the folder; every process may call it."""
        for folder in (self.root, self.progress):
            remove_leftovers(folder)
        if not is_latent_cache(self.root):
            self.write(f"{PROGRESS}/settings.json", to_json(dataclasses.asdict(self.settings)))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, completely or not at all."""
        write_bytes(self.root / name, content)

    def images_of(self, k: int) -> range:
        size = self.settings.shard_size
        return range(k * size, min((k + 1) * size, self.settings.images))

    def path(self, name: str, k: int) -> Path:
        return self.root / f"{name}-{k:05d}.npy"

    def finished(self, k: int) -> bool:
        """Return whether shard k is complete: its files are whole and it has a record."""
        if k not in self.records:
            # in this order: the records vanish only after the manifest has appeared
            record = read_json(self.progress / f"{k:05d}.json") or self.listed_record(k)
            if (
                record
                and self.valid(record, k)
                and all(
                    file_size(self.path(name, k))
                    == self.settings.array_bytes(name, record["count"])
                    for name in ("moments", "labels")
                )
            ):
                self.records[k] = record
        return k in self.records

    def valid(self, record: dict, k: int) -> bool:
        """Return whether `ShardWriter` could have written this record of shard k."""
        try:
            for name, kind in (("count", int), ("unreadable", list), ("sha256", dict)):
                check_value(name, record.get(name), kind)
        except ValueError:
            return False
        return record["count"] + len(record["unreadable"]) == len(self.images_of(k))

    def listed_record(self, k: int) -> dict | None:
        """Return the record of shard k in the manifest of a complete cache, None without one."""
        if not self.listed:
            if read_json(self.root / MANIFEST) is None:
                return None
            self.listed = read_manifest(self.root)
        unreadable = [u for u in self.listed["unreadable"] if u["index"] in self.images_of(k)]
        return {**self.listed["shards"][k], "unreadable": unreadable}

    def complete(self) -> bool:
        """Return whether all shards are finished; the manifest may still have to be written."""
        return all(self.finished(k) for k in range(self.shards))

    def images_written(self) -> int:
        """Return how many images all processes have written, unfinished shards included."""
        header, one = (self.settings.array_bytes("moments", count) for count in (0, 1))
        sizes = [file_size(path) for path in self.root.glob("**/moments-*")]
        written = sum(max(0, size - header) for size in sizes) // (one - header)
        return min(written, self.settings.images)

    def bytes_needed(self) -> int:
        """Return the disk space that the unfinished shards will take, in bytes."""
        counts = [len(self.images_of(k)) for k in range(self.shards) if not self.finished(k)]
        names = ("moments", "labels")
        total = sum(self.settings.array_bytes(name, count) for count in counts for name in names)
        # half-written files of a killed run are written over
        return max(0, total - sum(file_size(path) for path in self.progress.glob("moments-*")))

    def unreadable(self) -> list[dict]:
        """Return index, image and error of each unreadable image; all shards must be finished."""
        return [entry for k in range(self.shards) for entry in self.records[k]["unreadable"]]

    def reject(self) -> None:
        """Remove the shards with unreadable images, so that the next run reads these again."""
        for k in range(self.shards):
            if self.records[k]["unreadable"]:
                (self.progress / f"{k:05d}.json").unlink(missing_ok=True)

    def finish(self) -> dict:
        """Write the manifest of a complete cache, and return it."""
        entries, first = [], 0
        for k in range(self.shards):
            files = {name: self.path(name, k).name for name in ("moments", "labels")}
            record = {key: self.records[k][key] for key in ("count", "sha256")}
            entries.append({**files, "first": first, **record})
            first += record["count"]
        left_out = [{key: u[key] for key in ("index", "image")} for u in self.unreadable()]
        manifest = dataclasses.asdict(self.settings)
        manifest |= dict(count=first, unreadable=left_out, shards=entries)
        self.write(MANIFEST, to_json(manifest))
        shutil.rmtree(self.progress, ignore_errors=True)
        return manifest


class ShardWriter:
    """Writer of shard k, batch by batch: with ShardWriter(cache, k) as shard: shard.add(...)."""

    def __init__(self, cache: CacheWriter, k: int):
        self.cache, self.k = cache, k
        self.labels: list[int] = []
        self.unreadable: list[dict] = []
        self.temporary = cache.progress / cache.path("moments", k).name

    def __enter__(self) -> "ShardWriter":
        self.cache.progress.mkdir(exist_ok=True)
        self.file = open(self.temporary, "ab")  # emptied only when nobody else is writing it
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{self.temporary}: another run is writing it; wait for that, or end it"
            ) from None
        except OSError:
            pass  # a file system without locks
        self.file.truncate(0)
        self.file.write(self.header(len(self.cache.images_of(self.k))))
        return self

    def header(self, count: int) -> bytes:
        return npy_header(*self.cache.settings.layout("moments", count))

    def add(self, moments: np.ndarray, labels: list[int], unreadable: list[dict]) -> None:
        """Add the next images to the shard.

        Args:
            moments: (n, 2, 2, C, h, w), in the cache's dtype.
            labels: n of them.
            unreadable: index, image and error of each of the source's images that is left out.
        """
        assert moments.shape == (len(labels), *self.cache.settings.row_shape)
        assert moments.dtype == self.cache.settings.dtype
        self.file.write(moments.tobytes())
        self.file.flush()
        self.labels += labels
        self.unreadable += unreadable

    def __exit__(self, kind, *_) -> None:
        with self.file:
            if kind is None:
                self.complete()

    def complete(self) -> None:
        cache, k, count = self.cache, self.k, len(self.labels)
        assert count + len(self.unreadable) == len(cache.images_of(k))
        with open(self.temporary, "r+b") as file:
            file.write(self.header(count))  # NumPy pads a header so that a count can be replaced
            os.fsync(file.fileno())
        moments, labels = cache.path("moments", k), cache.path("labels", k)
        column = np.array(self.labels, dtype=np.int64)
        cache.write(labels.name, npy_header(column.shape, column.dtype) + column.tobytes())
        os.replace(self.temporary, moments)
        checksums = {"moments": file_sha256(moments), "labels": file_sha256(labels)}
        record = dict(count=count, sha256=checksums, unreadable=self.unreadable)
        cache.write(f"{PROGRESS}/{k:05d}.json", to_json(record))
        progressed()
