"""Arrays in .npz and .npy files without reading them: memory-mapped, or streamed if compressed.

An .npz is a zip archive of .npy files. One that is stored, as numpy.savez does, lies in the archive
as it is and can be mapped from there; a deflated one, as of numpy.savez_compressed, is unpacked
from its start up to what is asked for, never all at once.

What a file declares is checked before anything is read: the header of an array against the bytes
that the archive has of it, and the size of what is read whole against a limit. So a broken header
or a zip bomb costs nothing but its error.
"""

import ast
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

LOCAL_HEADER = 30  # bytes of a zip member's header before its name
VERSIONS = {(1, 0): "<H", (2, 0): "<I"}  # of .npy: how the length of its header is written
LONGEST_HEADER = 10_000  # characters, as in numpy
SKIP = 2**24  # bytes unpacked or checked at a time
SMALL = 2**28  # bytes of the largest array that is read whole, as statistics and labels are
BROKEN = (
    OSError,
    EOFError,
    KeyError,
    OverflowError,
    NotImplementedError,  # a way of compressing that zipfile does not know
    RuntimeError,  # an encrypted archive
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)

HEADER_ERRORS = (
    ValueError,
    TypeError,
    SyntaxError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,  # what Python's parser says of too many brackets
)


class Refused(ValueError):
    """A file whose header cannot be true; `str(error)` does not name it yet."""


@contextmanager
def readable(path: str | Path, kind: str = ".npz") -> Iterator[None]:
    """Turn what broken files raise into a `ValueError` that names the file."""
    if Path(path).is_dir():
        raise ValueError(f"{path}: a folder, where an {kind} file is meant")
    try:
        yield
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except (PermissionError, FileNotFoundError):
        raise
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: truncated, or not an {kind} file ({reason})") from None


def array_names(path: str | Path) -> list[str]:
    """Return the names of the arrays in an .npz; `ValueError` for another file."""
    with readable(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def open_member(path: str | Path, name: str) -> "np.ndarray | CompressedArray":
    """Open the array `name` of an .npz: to be sliced along its first axis, otherwise left on disk.

    `ValueError` names the file when the header does not fit the bytes there are.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as member:
            shape, dtype, fortran = read_header(member)
            start = member.tell()
        check_declared(name, shape, dtype, info.file_size - start)
        refuse_fortran(fortran)
        if info.compress_type != zipfile.ZIP_STORED:
            return CompressedArray(path, info, shape, dtype)
        with open(path, "rb") as file:
            file.seek(info.header_offset)
            head = file.read(LOCAL_HEADER)  # zipfile has checked it
            lengths = struct.unpack("<HH", head[26:])  # those of name and extra field
        offset = info.header_offset + LOCAL_HEADER + sum(lengths) + start
        return mapped(path, offset, shape, dtype)


def check_member(path: str | Path, name: str) -> None:
    """Read an array of an .npz through once; `ValueError` unless its bytes have their checksum.

    A mapped array does not come by the archive's checksum (CRC-32) otherwise.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        try:
            with archive.open(f"{name}.npy") as member:
                while member.read(SKIP):
                    pass
        except (zipfile.BadZipFile, zlib.error):
            raise Refused(f"damaged: {name} is not what was written (its checksum)") from None


def open_npy(path: str | Path) -> np.ndarray:
    """Open the array of an .npy, memory-mapped; `ValueError` names another file."""
    with readable(path, ".npy"), open(path, "rb") as file:
        shape, dtype, fortran = read_header(file)
        start = file.tell()
        size = file.seek(0, 2) - start
        if size < nbytes(shape, dtype):
            raise EOFError(f"{size} bytes of the {nbytes(shape, dtype)} that its header says")
        check_declared("it", shape, dtype, size)
        return mapped(path, start, shape, dtype, "F" if fortran else "C")


def mapped(path, offset: int, shape: tuple[int, ...], dtype: np.dtype, order="C") -> np.ndarray:
    try:
        if not nbytes(shape, dtype):
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", offset, shape, order)
    except ValueError as error:
        raise Refused(f"truncated ({error})") from None


def read_small(path: str | Path, name: str, limit: int = SMALL) -> np.ndarray:
    """Read a whole array of an .npz into memory; `ValueError` if it takes over `limit` bytes."""
    with readable(path), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.file_size > limit:
            raise Refused(
                f"{name} takes {info.file_size:,} bytes unpacked, {limit:,} are the most that "
                f"are read"
            )
        with archive.open(info) as member:
            shape, dtype, fortran = read_header(member)
            check_declared(name, shape, dtype, info.file_size - member.tell())
            data = member.read()  # to the end, where the checksum is compared
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()


def read_header(file) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Read shape, type and whether in Fortran order, of an open .npy at its start."""
    try:
        version = npy.read_magic(file)
    except ValueError as error:
        raise EOFError(str(error)) from None
    if version not in VERSIONS:
        raise Refused(f".npy version {version}; write it anew with numpy.savez")
    (length,) = struct.unpack(VERSIONS[version], file.read(struct.calcsize(VERSIONS[version])))
    if length > LONGEST_HEADER:
        raise Refused(f"an array's header of {length:,} bytes; write it anew with numpy.savez")
    text = file.read(length).decode("latin1")
    try:
        header = ast.literal_eval(text.strip())
        shape, fortran = header["shape"], header["fortran_order"]
        dtype = npy.descr_to_dtype(header["descr"])
    except HEADER_ERRORS:
        raise Refused("an array's header is broken; write it anew with numpy.savez") from None
    plain = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not plain or not isinstance(fortran, bool) or len(shape) > 32:
        raise Refused(f"an array's header says shape {str(shape)[:60]}; write it anew")
    if dtype.hasobject:
        raise Refused("an array of Python objects, which are not unpickled; store numbers")
    return shape, dtype, fortran


def nbytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def check_declared(name: str, shape: tuple[int, ...], dtype: np.dtype, there: int) -> None:
    """Raise `Refused` unless a header's array takes exactly the bytes that are there."""
    if nbytes(shape, dtype) != there:
        raise Refused(
            f"its header says that {name} is {dtype} {shape}, {nbytes(shape, dtype):,} bytes, "
            f"and {there:,} are there: truncated or altered"
        )


def refuse_fortran(fortran: bool) -> None:
    if fortran:
        raise Refused(
            "an array in Fortran order; write it anew with numpy.savez(..., "
            "numpy.ascontiguousarray(images))"
        )


class CompressedArray:
    """An array that is unpacked as its slices are asked for, best from front to back."""

    def __init__(self, path, info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.info, self.shape, self.dtype = path, info, shape, dtype
        self.row_bytes = nbytes(shape[1:], dtype)
        self.file: IO[bytes] | None = None
        self.row = 0  # the row that `file` gives next

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        with readable(self.path):
            if self.file is None or start < self.row:
                self.file = self._restart()
            for left in range((start - self.row) * self.row_bytes, 0, -SKIP):
                self.file.read(min(left, SKIP))
            data = self.file.read((stop - start) * self.row_bytes)
            if len(data) != (stop - start) * self.row_bytes:
                raise EOFError(f"it ends before row {stop}")
        self.row = stop
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])

    def _restart(self) -> IO[bytes]:
        file = zipfile.ZipFile(self.path).open(self.info)  # noqa: SIM115 - stays open
        read_header(file)
        self.row = 0
        return file


def write_array(archive: zipfile.ZipFile, name: str, shape: tuple, dtype, blocks) -> None:
    """Stream an array into an .npz; a fixed date makes the file a function of its content."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).tobytes())
