"""Sets of samples on disk: one .npz, and the parts it is assembled from.

The .npz has `arr_0`, uint8 (N, H, W, C), as ADM's evaluator reads it; `labels`, int64 (N,); and
`recipe`, a JSON text of everything that made it. While a run works, `NAME.npz.parts/` holds one
small file per batch. Files appear by renaming, so whatever is there is whole, and the processes of
a run need not talk to each other: they see what is finished by looking.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from evaluation.images import open_images


class SampleParts:
    """The batches of a sampling run: batch k has images k B ... (k + 1) B - 1.

    Args:
        out: the .npz to write.
        recipe: everything that determines the samples, JSON-compatible.
        count: number of images.
        batch: B.
    """

    def __init__(self, out: Path, recipe: dict, count: int, batch: int):
        self.out, self.recipe, self.count, self.batch = out, recipe, count, batch
        self.folder = out.with_name(out.name + ".parts")
        self.batches = -(-count // batch)

    def prepare(self) -> bool:
        """Make the folder; False if the .npz is there already and there is nothing to do.

        Every process may call it. `ValueError` when the file or the parts are of other settings.
        """
        if self.out.exists():
            check_same_recipe(self.out, read_recipe(self.out), self.recipe)
            shutil.rmtree(self.folder, ignore_errors=True)  # left if killed just before the end
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = self.folder / "recipe.json"
        if recipe.exists():
            check_same_recipe(self.folder, json.loads(recipe.read_text()), self.recipe)
        else:
            replace_with(recipe, json.dumps(self.recipe).encode())
        return True

    def path(self, k: int) -> Path:
        return self.folder / f"{k:06d}.npz"

    def finished(self, k: int) -> bool:
        return self.path(k).exists()

    def images_finished(self) -> int:
        """Images of all processes so far."""
        return min(self.count, self.batch * sum(self.finished(k) for k in range(self.batches)))

    def write(self, k: int, images: np.ndarray, **columns: np.ndarray) -> None:
        """Store batch k without the padding of the last one; columns are per image."""
        keep = min(self.batch, self.count - k * self.batch)
        temporary = self.path(k).with_suffix(f".tmp{os.getpid()}")
        with open(temporary, "wb") as file:
            np.savez(file, images=images[:keep], **{n: c[:keep] for n, c in columns.items()})
        os.replace(temporary, self.path(k))

    def head(self, count: int) -> np.ndarray:
        """The first `count` images, or as many as there are, of finished parts."""
        parts = range(min(self.batches, -(-count // self.batch)))
        return np.concatenate([self._load(k)["images"] for k in parts])[:count]

    def assemble(self) -> dict:
        """Write the .npz from all parts, one part in memory at a time; returns its recipe."""
        first = self._load(0)
        image_shape = first.pop("images").shape[1:]
        columns = {name: [] for name in first}

        def blocks() -> Iterator[np.ndarray]:
            for k in range(self.batches):
                part = self._load(k)
                for name in columns:
                    columns[name].append(part[name])
                yield part["images"]

        temporary = self.out.with_name(self.out.name + ".tmp")
        with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
            write_array(archive, "arr_0", (self.count, *image_shape), np.dtype(np.uint8), blocks())
            joined = {name: np.concatenate(blocks) for name, blocks in columns.items()}
            nfe = joined.pop("nfe")
            recipe = self.recipe | {"nfe": {"mean": float(nfe.mean()), "max": int(nfe.max())}}
            for name, column in {**joined, "recipe": np.array(json.dumps(recipe))}.items():
                write_array(archive, name, column.shape, column.dtype, [column])
        os.replace(temporary, self.out)
        shutil.rmtree(self.folder)
        return recipe

    def _load(self, k: int) -> dict[str, np.ndarray]:
        with np.load(self.path(k)) as part:
            return dict(part)


def write_array(archive: zipfile.ZipFile, name: str, shape: tuple, dtype, blocks) -> None:
    """Stream an array into an .npz; a fixed date makes the file a function of its content."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).tobytes())


def replace_with(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def read_samples(path: str | Path) -> tuple[np.ndarray, np.ndarray | None, dict | None]:
    """(images uint8 (N, H, W, C), labels or None, recipe or None); `ValueError` for a bad file."""
    found = open_images(path)
    return found.images[:], found.labels, found.recipe


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
