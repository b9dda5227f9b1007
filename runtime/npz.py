"""Arrays in .npz and .npy files without reading them: memory-mapped, or streamed if compressed.

An .npz is a zip archive of .npy files. One that is stored, as numpy.savez does, lies in the archive
as it is and can be mapped from there; a deflated one, as of numpy.savez_compressed, is unpacked
from its start up to what is asked for, never all at once.
"""

import struct
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

LOCAL_HEADER = 30  # bytes of a zip member's header before its name
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
SKIP = 2**24  # bytes unpacked at a time on the way


@contextmanager
def readable(path: str | Path):
    """Turn what broken files raise into a `ValueError` that names the file."""
    try:
        yield
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise ValueError(f"{path}: truncated, or not an .npz file ({error})") from None


def array_names(path: str | Path) -> list[str]:
    """Names of the arrays in an .npz; `ValueError` if it is none."""
    with readable(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def open_member(path: str | Path, name: str) -> "np.ndarray | CompressedArray":
    """The array `name` of an .npz: to be sliced along its first axis, otherwise left on disk."""
    with readable(path), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as member:
            shape, dtype = read_header(path, member)
            start = member.tell()
        if info.compress_type != zipfile.ZIP_STORED:
            return CompressedArray(path, info, shape, dtype)
        with open(path, "rb") as file:
            file.seek(info.header_offset)
            lengths = struct.unpack("<HH", file.read(LOCAL_HEADER)[26:])  # of name and extra field
        offset = info.header_offset + LOCAL_HEADER + sum(lengths) + start
    try:
        return np.memmap(path, dtype, "r", offset, shape) if np.prod(shape) else np.zeros(shape)
    except ValueError as error:
        raise ValueError(f"{path}: truncated ({error})") from None


def open_npy(path: str | Path) -> np.ndarray:
    """The array of an .npy, memory-mapped."""
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: truncated, or not an .npy file ({error})") from None


def read_small(path: str | Path, name: str) -> np.ndarray:
    """A whole array of an .npz in memory."""
    with readable(path), np.load(path) as archive:
        return archive[name]


def read_header(path: str | Path, file) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"{path}: .npy version {version}; write it anew with numpy.savez")
    shape, fortran, dtype = HEADERS[version](file)
    if fortran or dtype.hasobject:
        raise ValueError(
            f"{path}: an array in Fortran order or of objects; write it anew with "
            f"numpy.savez(..., numpy.ascontiguousarray(images))"
        )
    return shape, dtype


class CompressedArray:
    """An array that is unpacked as its slices are asked for, best from front to back."""

    def __init__(self, path, info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.info, self.shape, self.dtype = path, info, shape, dtype
        self.row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self.file = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        with readable(self.path):
            if self.file is None or start < self.row:
                self._restart()
            for left in range((start - self.row) * self.row_bytes, 0, -SKIP):
                self.file.read(min(left, SKIP))
            data = self.file.read((stop - start) * self.row_bytes)
        self.row = stop
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])

    def _restart(self) -> None:
        self.file = zipfile.ZipFile(self.path).open(self.info)  # noqa: SIM115 - stays open
        read_header(self.path, self.file)
        self.row = 0


def write_array(archive: zipfile.ZipFile, name: str, shape: tuple, dtype, blocks) -> None:
    """Stream an array into an .npz; a fixed date makes the file a function of its content."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).tobytes())
