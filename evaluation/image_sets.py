"""Reading of sets of images: .npz, .npy, or a folder of image files.

Errors in a set are reported when it is opened, before any image is decoded.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.decoding import LARGEST
from runtime.launch import is_first_process
from runtime.npz import (
    CompressedArray,
    array_names,
    check_member,
    open_member,
    open_npy,
    read_small,
)
from runtime.processes import told_by_first

if TYPE_CHECKING:
    from evaluation.data_sets import DataSetImages
from evaluation.folder_images import FolderImages, common_size, image_paths

LABELS = ("labels", "arr_1")  # sample_ddp.py's name and ADM's
ARRAY = "arr_0"  # the images in an .npz, as ADM and sample_ddp.py name them
LONGEST_RECIPE = 2**24  # bytes
HINT_BYTES = 2**26  # read at most for a hint in an error


@dataclass
class ImageSet:
    """A set of images that are read when they are sliced.

    `images[a:b]` is uint8 (b - a, H, W, C); `labels` is int64 (N,) or None; `recipe` holds the
    settings that the images were made with, or None.
    """

    name: str
    images: "np.ndarray | CompressedArray | FolderImages | DataSetImages"
    labels: np.ndarray | None = None
    recipe: dict | None = None

    def __len__(self) -> int:
        return len(self.images)

    def in_channels(self, channels: int) -> "ImageSet":
        """Return the set with that many channels if files hold greys; else as it is."""
        if (
            channels != 1
            or not isinstance(self.images, FolderImages)
            or not self.images.are_greys()
        ):
            return self
        return replace(self, images=self.images.greys())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (H, W, C) of the images."""
        return tuple(self.images.shape[1:])


def open_images(path: str | Path, array: str = ARRAY) -> ImageSet:
    """Open the images at `path`; the checksum of an .npz is tested once.

    Args:
        array: name of the array in an .npz.

    Raises `ValueError`, which says what is wrong and what to do.
    """
    path = Path(path)
    if path.exists() and not path.is_dir() and not path.is_file():
        raise ValueError(f"{path}: neither a file nor a folder; give a set of images")
    if path.is_dir() or (path.is_file() and is_npy(path)):
        if array not in (ARRAY, ""):
            raise ValueError(f"--array {array}: {path} is no .npz, whose arrays have names")
        if path.is_dir():
            return open_folder(path)
        image_set = ImageSet(str(path), open_npy(path))
    elif not path.is_file():
        raise ValueError(f"{path}: no such file")
    else:
        image_set = open_npz(path, array)
    check_images(image_set, array)
    if isinstance(image_set.images, np.memmap) and not is_npy(path) and is_first_process():
        check_member(path, array)  # a compressed one is compared as it is unpacked
    return image_set


def is_npy(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(6) == b"\x93NUMPY"


def open_npz(path: Path, array: str) -> ImageSet:
    names = array_names(path)
    if array not in names:
        raise ValueError(
            f"{path}: no {array} in it, only {', '.join(names)}; --array NAME chooses another"
        )
    key = next((key for key in LABELS if key in names and key != array), None)
    labels = None if key is None else read_small(path, key)
    return ImageSet(str(path), open_member(path, array), labels, read_recipe(path))


def read_recipe(path: str | Path) -> dict | None:
    """Read the recipe in an .npz, the settings it was made with; None if it has none."""
    if "recipe" not in array_names(path):
        return None
    try:
        recipe = json.loads(str(read_small(path, "recipe", LONGEST_RECIPE)))
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(f"{path}: its recipe is not JSON; remove that array") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: its recipe is no JSON object; remove that array")
    return recipe


def check_images(image_set: ImageSet, array: str) -> None:
    """Raise `ValueError` unless these are images that fit into memory one at a time."""
    images, labels = image_set.images, image_set.labels
    if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"{image_set.name}: {array} must be uint8 images (N, H, W, C), it is {images.dtype} "
            f"{tuple(images.shape)}{describe_floats(images)}"
        )
    height, width = images.shape[1:3]
    if not 1 <= height * width <= LARGEST:
        raise ValueError(
            f"{image_set.name}: images of {height}x{width} pixels, 1 to {LARGEST:,} can be read"
        )
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise ValueError(
            f"{image_set.name}: {len(images)} images and labels {labels.dtype} {labels.shape} in it"
        )
    if len(images) < 2:
        raise ValueError(f"{image_set.name}: {len(images)} images in it, at least 2 are needed")


def describe_floats(images) -> str:
    """Return a hint for the commonest mistake: float images, not converted to bytes."""
    one = math.prod(images.shape[1:]) * images.dtype.itemsize
    if images.dtype.kind != "f" or not images.shape or not len(images) or not one:
        return ""
    head = images[: min(16, HINT_BYTES // one)]
    if not len(head):
        return ""
    return (
        f" from {np.nanmin(head):g} to {np.nanmax(head):g}; for a range of -1 to 1 store "
        f"(127.5 * x + 128).clip(0, 255).astype(numpy.uint8)"
    )


def open_folder(folder: Path, image_size: int | None = None) -> ImageSet:
    """Open the images below `folder`, in the order of their names; their folders are the labels.

    In a process group the first process looks and tells the others: a collective.

    Args:
        image_size: crop them to this size as ADM does; with None they must all have one size.
    """

    def look() -> tuple[list[str], tuple[int, int]]:
        files = image_paths(folder)
        if len(files) < 2:
            raise ValueError(f"{folder}: {len(files)} images in it, at least 2 are needed")
        size = (image_size, image_size) if image_size else common_size(files)
        return [str(path.relative_to(folder)) for path in files], size

    names, height_width = told_by_first(look)
    paths = [folder / name for name in names]
    parents = [path.parent for path in paths]
    labels = None
    if folder not in parents:
        numbers = {parent: number for number, parent in enumerate(sorted(set(parents)))}
        labels = np.array([numbers[parent] for parent in parents])
    return ImageSet(str(folder), FolderImages(paths, height_width, image_size), labels)


def content_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of the names and bytes of a folder's images."""
    if Path(path).is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for image in image_paths(Path(path)):
        digest.update(os.fsencode(image.relative_to(path)))
        digest.update(image.read_bytes())
    return digest.hexdigest()
