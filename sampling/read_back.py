"""Proof of a written set of samples: the .npz is read back before its parts are removed."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from runtime.npz import read_header
from sampling.stored_recipe import DAMAGED


def read_back(path: Path, batches: list[tuple[int, int]], columns: dict[str, np.ndarray]) -> None:
    """Read an .npz; raise `ValueError` or what reading raises unless it holds all that was written.

    Args:
        batches: number of bytes and CRC-32 of the images of each batch, in order.
        columns: the other arrays, by name.
    """
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        read_header(file)
        for k, (size, expected) in enumerate(batches):
            if zlib.crc32(file.read(size)) != expected:
                raise ValueError(f"images of {k:06d}.npz are others there")
        if file.read(1):  # the end, where the archive's own checksum is looked at
            raise ValueError("more images than were made")
    with np.load(path) as arrays:
        for name, column in columns.items():
            if not np.array_equal(arrays[name], column):
                raise ValueError(f"{name} are others there")


def damaged_member(path: Path) -> str | None:
    """Name the part of an .npz that does not fit its checksum, None if every part does."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except DAMAGED as error:
        return str(error) or "truncated"
