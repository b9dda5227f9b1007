"""Writing of a set of samples: its parts, and the one .npz that is assembled from them.

The .npz has `arr_0`, uint8 (N, H, W, C), as ADM's evaluator reads it; `labels`, int64 (N,); and
`recipe`, a JSON text of everything that made it. While a run works, `NAME.npz.parts/` holds one
small file per batch. Files appear by renaming and carry checksums, so the processes of a run need
not talk to each other: they see what is finished by looking. A set belongs to one launch at a
time, and parts are removed only when the .npz has been read back and holds them.
"""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from runtime.command import RunError
from runtime.files import (
    check_folder_writable,
    check_writable,
    remove_leftovers,
    replace_file,
    write_json,
)
from runtime.launch import is_first_process
from runtime.locks import OutputLock, lock_output
from runtime.npz import open_member
from runtime.outcome import progressed
from runtime.png import check_picture
from sampling.assembling import write_set
from sampling.pictures import Pictures
from sampling.read_back import damaged_member
from sampling.stored_recipe import DAMAGED, check_same_recipe, read_recipe, read_recipe_file

PREVIEW_KIND = "first samples"  # kind of the picture beside the .npz


class SampleParts:
    """The batches of a sampling run: batch k has images k B ... (k + 1) B - 1.

    Args:
        out: the .npz to write.
        recipe: everything that determines the samples, JSON-compatible.
        count: number of images.
        batch: B.
        image_shape: (H, W, C).
        save_png: also write each image to NAME/000000.png, see `Pictures`.
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
        self.image_shape = image_shape
        self.pictures = Pictures(out, recipe) if save_png else None
        self.folder = out.with_name(out.name + ".parts")
        self.batches = -(-count // batch)
        self.known_whole: set[int] = set()

    def lock(self) -> OutputLock | None:
        """Make this launch the only one that writes the set; None if nothing is left to write.

        Raises `ValueError` when it cannot be written here, or when another launch has it.
        """
        if self.out.is_file() and not self.folder.exists() and self.pictures is None:
            return None
        check_writable(self.out)
        check_folder_writable(self.folder)
        lock_file = self.out.with_name(self.out.name + ".lock")
        return lock_output(self.out, lock_file, done=self.out.exists)

    def check(self) -> bool:
        """Return whether there is anything to sample: False if the .npz is there already.

        Raises `ValueError` when the file, the parts or the pictures are of other settings, when
        the folder cannot be written, or when the disk is too small.
        """
        if self.pictures:
            self.pictures.check()
        if self.out.exists():
            check_same_recipe(self.out, read_recipe(self.out), self.recipe)
            return False
        check_writable(self.out)
        check_folder_writable(self.folder)
        recipe = self.folder / "recipe.json"
        if recipe.exists():
            check_same_recipe(self.folder, read_recipe_file(recipe), self.recipe)
        check_picture(self.preview, PREVIEW_KIND)
        if is_first_process():  # which looks at all parts for the others
            self.check_space()
        return True

    def check_space(self) -> None:
        """Raise `ValueError` when the disk is too small."""
        there = next(p for p in self.out.absolute().parents if p.exists())
        needed, free = self.bytes_needed(), shutil.disk_usage(there).free
        if needed > free:
            raise ValueError(
                f"{self.out}: {needed / 1e9:.3g} GB needed, for the parts and the .npz, and "
                f"{free / 1e9:.3g} GB free; make room, or give --out on another disk"
            )

    @property
    def preview(self) -> Path:
        """Return the path of the picture of the first images, beside the .npz."""
        return self.out.with_suffix(".png")

    def prepare(self) -> None:
        """Make the folders; every process may call it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        if not (self.folder / "recipe.json").exists():
            write_json(self.folder / "recipe.json", self.recipe, indent=None)
        if self.pictures:
            self.pictures.prepare()

    def bytes_needed(self) -> int:
        """Return the disk space for the missing parts and for the .npz, in bytes."""
        one = math.prod(self.image_shape) + 64  # and its columns
        there = sum(path.stat().st_size for path in self.folder.glob("*.npz"))
        return max(0, self.count * one - there) + self.count * one

    def path(self, k: int) -> Path:
        return self.folder / f"{k:06d}.npz"

    def images_of(self, k: int) -> range:
        return range(k * self.batch, min(self.count, (k + 1) * self.batch))

    def finished(self, k: int) -> bool:
        """Return whether batch k is there and its checksums hold. A damaged file is removed."""
        if k not in self.known_whole and self.path(k).exists():
            try:
                self._load(k)
                self.known_whole.add(k)
            except DAMAGED:
                self.path(k).unlink(missing_ok=True)
        return k in self.known_whole

    def images_finished(self) -> int:
        """Return how many images all processes have finished, by one listing of their files."""
        names = {entry.name for entry in os.scandir(self.folder)} if self.folder.exists() else set()
        there = (k for k in range(self.batches) if self.path(k).name in names)
        return sum(len(self.images_of(k)) for k in there)

    def write(self, k: int, images: np.ndarray, **columns: np.ndarray) -> None:
        """Store batch k without the padding of the last one; columns are per image."""
        keep = len(self.images_of(k))
        content: dict[str, Any] = {"images": images[:keep]}
        content |= {n: c[:keep] for n, c in columns.items()}
        replace_file(self.path(k), lambda file: np.savez(file, **content))
        progressed()

    def write_pictures(self, k: int, images: np.ndarray | None = None) -> None:
        """Write the given images of batch k, or else its stored ones, as files if asked for.

        Call it before the part is written: with the last part, the first process ends the run.
        """
        numbers = self.images_of(k)
        if self.pictures and self.pictures.missing(numbers):
            images = self.stored_images(k) if images is None else images[: len(numbers)]
            self.pictures.write(numbers, images)

    def stored_images(self, k: int) -> np.ndarray:
        """Read the images of batch k from its part, or from the .npz if that is finished."""
        try:
            return self._load(k)["images"]
        except DAMAGED:
            if not self.out.exists():
                raise
            numbers = self.images_of(k)
            return np.array(open_member(self.out, "arr_0")[numbers.start : numbers.stop])

    def head(self, count: int) -> np.ndarray:
        """Return the first `count` images of finished parts, or as many as there are."""
        parts = range(min(self.batches, -(-count // self.batch)))
        return np.concatenate([self._load(k)["images"] for k in parts])[:count]

    def assemble(self) -> dict:
        """Write the .npz from all parts, one part in memory at a time; return its recipe.

        The parts are removed only after the file has been read back and compared with them. Raises
        `RunError` for a damaged part, which is removed, and for a file that is read back different.
        """
        parts = (self._load_or_remove(k) for k in range(self.batches))
        recipe = write_set(self.out, parts, (self.count, *self.image_shape), self.recipe)
        self.clean_up()
        return recipe

    def clean_up(self) -> None:
        """Remove the parts of a finished set, also those left if killed just before the end.

        Raises `RunError` when the .npz is damaged; then the parts stay.
        """
        if not self.folder.exists():
            return
        if (damaged := damaged_member(self.out)) is not None:
            raise RunError(
                f"{self.out}: damaged ({damaged}); remove it, and the parts that are still in "
                f"{self.folder} are assembled again"
            )
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
