"""Assembling of a set of samples: one .npz from its parts, one part in memory at a time."""

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from runtime.command import RunError
from runtime.files import replacing
from runtime.npz import write_array
from sampling.read_back import read_back
from sampling.stored_recipe import DAMAGED

COUNTS = ("nfe", "network_passes")  # columns of which the recipe keeps mean and maximum


def write_set(
    out: Path, parts: Iterable[dict[str, np.ndarray]], shape: tuple[int, ...], recipe: dict
) -> dict:
    """Write a set of samples; return its recipe.

    The file gets its name only after it has been read back and compared with the parts.

    Args:
        out: the .npz.
        parts: `images`, uint8 (n, H, W, C), of each part in turn, and columns of n values.
        shape: (N, H, W, C) of all images.
        recipe: everything that determines the samples; the counts' mean and maximum are added.

    Raises `RunError` for a file that is read back different.
    """
    batches: list[tuple[int, int]] = []  # number of bytes and CRC-32 of the images of each part
    columns: dict[str, list] = {}

    def blocks() -> Iterator[np.ndarray]:
        for part in parts:
            if not batches:
                columns.update({name: [] for name in part if name != "images"})
            for name in columns:
                columns[name].append(part[name])
            images = np.ascontiguousarray(part["images"])
            batches.append((images.nbytes, zlib.crc32(images.data)))
            yield images

    with replacing(out) as temporary:
        with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
            write_array(archive, "arr_0", shape, np.dtype(np.uint8), blocks())
            joined = {name: np.concatenate(values) for name, values in columns.items()}
            counts = {name: joined.pop(name) for name in COUNTS}
            recipe = recipe | {
                name: {"mean": float(values.mean()), "max": int(values.max())}
                for name, values in counts.items()
            }
            for name, column in {**joined, "recipe": np.array(json.dumps(recipe))}.items():
                write_array(archive, name, column.shape, column.dtype, [column])
        try:
            read_back(temporary, batches, joined)
        except DAMAGED as error:
            raise RunError(
                f"{out}: what was written does not read back ({error}); the parts are kept"
            ) from None
    return recipe
