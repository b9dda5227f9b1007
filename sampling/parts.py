"""Sets of samples on disk: one .npz, and the parts it is assembled from.

The .npz has `arr_0`, uint8 (N, H, W, C), as ADM's evaluator reads it; `labels`, int64 (N,); and
`recipe`, a JSON text of everything that made it. While a run works, `NAME.npz.parts/` holds one
small file per batch. Files appear by renaming and carry checksums, so the processes of a run need
not talk to each other: they see what is finished by looking.
"""

import json
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtime.command import RunError
from runtime.npz import write_array
from runtime.png import save_image

COUNTS = ("nfe", "network_passes")  # columns of which the recipe keeps mean and maximum
DAMAGED = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)


class SampleParts:
    """The batches of a sampling run: batch k has images k B ... (k + 1) B - 1.

    Args:
        out: the .npz to write.
        recipe: everything that determines the samples, JSON-compatible.
        count: number of images.
        batch: B.
        image_shape: (H, W, C).
        save_png: also write each image to NAME/000000.png.
    """

    def __init__(
        self,
        out: Path,
        recipe: dict,
        count: int,
        batch: int,
        image_shape: tuple[int, int, int],
        save_png: bool = False,
    ):
        self.out, self.recipe, self.count, self.batch = out, recipe, count, batch
        self.image_shape, self.save_png = image_shape, save_png
        self.folder = out.with_name(out.name + ".parts")
        self.batches = -(-count // batch)
        self.known_whole = set()

    def check(self) -> bool:
        """False if the .npz is there already and there is nothing to do.

        `ValueError` when the file or the parts are of other settings, when the folder cannot be
        written, or when the disk is too small.
        """
        if self.out.exists():
            check_same_recipe(self.out, read_recipe(self.out), self.recipe)
            return False
        recipe = self.folder / "recipe.json"
        if recipe.exists():
            check_same_recipe(self.folder, json.loads(recipe.read_text()), self.recipe)
        there = next(p for p in self.out.absolute().parents if p.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise ValueError(f"{self.out}: {there} is no folder that can be written to")
        needed, free = self.bytes_needed(), shutil.disk_usage(there).free
        if needed > free:
            raise ValueError(
                f"{self.out}: {needed / 1e9:.3g} GB needed, for the parts and the .npz, and "
                f"{free / 1e9:.3g} GB free; make room, or give --out on another disk"
            )
        return True

    def prepare(self) -> None:
        """Make the folder; every process may call it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "recipe.json").exists():
            replace_with(self.folder / "recipe.json", json.dumps(self.recipe).encode())

    def bytes_needed(self) -> int:
        """Disk space for the parts that are missing and for the .npz made of all."""
        one = math.prod(self.image_shape) + 64  # and its columns
        there = sum(path.stat().st_size for path in self.folder.glob("*.npz"))
        return max(0, self.count * one - there) + self.count * one

    def path(self, k: int) -> Path:
        return self.folder / f"{k:06d}.npz"

    def images_of(self, k: int) -> range:
        return range(k * self.batch, min(self.count, (k + 1) * self.batch))

    def finished(self, k: int) -> bool:
        """Whether batch k is there and whole: its checksums hold. A damaged file is removed."""
        if k not in self.known_whole and self.path(k).exists():
            try:
                self._load(k)
                self.known_whole.add(k)
            except DAMAGED:
                self.path(k).unlink(missing_ok=True)
        return k in self.known_whole

    def images_finished(self) -> int:
        """Images of all processes so far, by the files there are."""
        return sum(len(self.images_of(k)) for k in range(self.batches) if self.path(k).exists())

    def write(self, k: int, images: np.ndarray, **columns: np.ndarray) -> None:
        """Store batch k without the padding of the last one; columns are per image."""
        keep = len(self.images_of(k))
        if self.save_png:
            for i, image in zip(self.images_of(k), images, strict=False):
                save_image(image, self.out.with_suffix("") / f"{i:06d}.png")
        temporary = self.path(k).with_suffix(f".tmp{os.getpid()}")
        with open(temporary, "wb") as file:
            np.savez(file, images=images[:keep], **{n: c[:keep] for n, c in columns.items()})
        os.replace(temporary, self.path(k))

    def head(self, count: int) -> np.ndarray:
        """The first `count` images, or as many as there are, of finished parts."""
        parts = range(min(self.batches, -(-count // self.batch)))
        return np.concatenate([self._load(k)["images"] for k in parts])[:count]

    def assemble(self) -> dict:
        """Write the .npz from all parts, one part in memory at a time; returns its recipe.

        `RunError` for a damaged part, which is removed.
        """
        columns = {name: [] for name in self._load_or_remove(0) if name != "images"}

        def blocks() -> Iterator[np.ndarray]:
            for k in range(self.batches):
                part = self._load_or_remove(k)
                for name in columns:
                    columns[name].append(part[name])
                yield part["images"]

        temporary = self.out.with_name(self.out.name + ".tmp")
        with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
            shape = (self.count, *self.image_shape)
            write_array(archive, "arr_0", shape, np.dtype(np.uint8), blocks())
            joined = {name: np.concatenate(blocks) for name, blocks in columns.items()}
            counts = {name: joined.pop(name) for name in COUNTS}
            recipe = self.recipe | {
                name: {"mean": float(values.mean()), "max": int(values.max())}
                for name, values in counts.items()
            }
            for name, column in {**joined, "recipe": np.array(json.dumps(recipe))}.items():
                write_array(archive, name, column.shape, column.dtype, [column])
        os.replace(temporary, self.out)
        self.clean_up()
        return recipe

    def clean_up(self) -> None:
        """Remove the parts, also those left if killed just before the end."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self, k: int) -> dict[str, np.ndarray]:
        with np.load(self.path(k)) as part:
            content = dict(part)  # reading checks the checksums
        if content["images"].shape != (len(self.images_of(k)), *self.image_shape):
            raise ValueError(f"{self.path(k)}: images of shape {content['images'].shape}")
        return content

    def _load_or_remove(self, k: int) -> dict[str, np.ndarray]:
        try:
            return self._load(k)
        except DAMAGED as error:
            self.path(k).unlink(missing_ok=True)
            raise RunError(f"{self.path(k)} was damaged ({error}) and is removed") from None


def replace_with(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def read_recipe(path: Path) -> dict:
    try:
        with np.load(path) as archive:
            return json.loads(str(archive["recipe"]))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        raise ValueError(f"{path} exists and is not of this program: give another --out") from None


def check_same_recipe(where: Path, there: dict, here: dict) -> None:
    for key, value in json.loads(json.dumps(here)).items():
        if there.get(key) != value:
            raise ValueError(
                f"{where} is of other settings ({key}: {there.get(key)} there, {value} here): "
                f"give another --out, or remove it"
            )
