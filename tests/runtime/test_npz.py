"""Arrays in .npz files: mapped or unpacked piece by piece, always what numpy reads."""

import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from runtime.npz import (
    CompressedArray,
    array_names,
    check_member,
    open_member,
    open_npy,
    read_small,
    write_array,
)

ARRAY = np.random.default_rng(0).integers(0, 256, (37, 5, 4, 3), dtype=np.uint8)


def test_stored_arrays_are_mapped(tmp_path):
    np.savez(tmp_path / "a.npz", np.arange(3), images=ARRAY, labels=np.arange(37))
    opened = open_member(tmp_path / "a.npz", "images")
    assert isinstance(opened, np.memmap)
    np.testing.assert_array_equal(opened, ARRAY)
    np.testing.assert_array_equal(open_member(tmp_path / "a.npz", "labels"), np.arange(37))


def test_arrays_that_sampling_streams_are_mapped(tmp_path):
    """Their zip headers have an extra field."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        write_array(archive, "arr_0", ARRAY.shape, ARRAY.dtype, [ARRAY[:9], ARRAY[9:]])
    opened = open_member(tmp_path / "a.npz", "arr_0")
    assert isinstance(opened, np.memmap)
    np.testing.assert_array_equal(opened, ARRAY)


def test_compressed_arrays_are_unpacked_piece_by_piece(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=ARRAY)
    opened = open_member(tmp_path / "a.npz", "images")
    assert isinstance(opened, CompressedArray) and opened.shape == ARRAY.shape
    monkeypatch.setattr("runtime.npz.SKIP", 100)
    for start, stop in [(0, 5), (5, 6), (20, 37), (3, 9), (36, 99)]:  # forward, over a gap, back
        np.testing.assert_array_equal(opened[start:stop], ARRAY[start:stop])


def test_npy_is_mapped(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    opened = open_npy(tmp_path / "a.npy")
    assert isinstance(opened, np.memmap)
    np.testing.assert_array_equal(opened, ARRAY)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_members_are_named(tmp_path, save):
    save(tmp_path / "a.npz", images=np.asfortranarray(ARRAY))
    with pytest.raises(ValueError, match=r"a\.npz: an array in Fortran order"):
        open_member(tmp_path / "a.npz", "images")


def test_truncated_npy_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"a\.npy: truncated, or not an \.npy"):
        open_npy(tmp_path / "a.npy")


def write_raw(path, content: bytes, compression=zipfile.ZIP_STORED) -> None:
    """An .npz with one array, byte by byte."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("images.npy", content)


def raw_array(header: str, data: bytes = b"") -> bytes:
    """An .npy file with any text for a header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


HEADERS = {  # what a header can say that is not so, and what is said of it
    "negative": ("{'descr': '|u1', 'fortran_order': False, 'shape': (-4, 3)}", "shape"),
    "huge": ("{'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 10**9)}", "broken"),
    "more": ("{'descr': '|u1', 'fortran_order': False, 'shape': (4000000000, 900)}", "truncated"),
    "fewer": ("{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", "12 are there"),
    "no numbers": ("{'descr': '|u1', 'fortran_order': False, 'shape': ('a',)}", "shape"),
    "no dictionary": ("[1, 2]", "broken"),
    "no Python": ("{'descr': ", "broken"),
    "nested": ("(" * 9000, "broken"),
    "without a shape": ("{'descr': '|u1', 'fortran_order': False}", "broken"),
    "no type": ("{'descr': 'nothing', 'fortran_order': False, 'shape': (12,)}", "broken"),
    "objects": ("{'descr': '|O', 'fortran_order': False, 'shape': (12,)}", "Python objects"),
    "too long": (" " * 20_000, "header of 20,000 bytes"),
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_that_cannot_be_are_refused_by_name(tmp_path, kind, compression):
    header, message = HEADERS[kind]
    content = raw_array(header, bytes(12))
    write_raw(tmp_path / "a.npz", content, compression)
    for read in (open_member, read_small):
        with pytest.raises(ValueError, match=rf"a\.npz: .*{message}"):
            read(tmp_path / "a.npz", "images")
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy: "):
        open_npy(tmp_path / "a.npy")


def test_a_bomb_is_refused_by_its_declared_size(tmp_path):
    """400 MB of zeros are 0.4 MB in the file; they are not unpacked."""
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (400000000,)}"
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("labels.npy", "w") as member,
    ):
        member.write(raw_array(header))
        for _ in range(40):
            member.write(bytes(10_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.npz: labels takes 400,000,\d+ bytes unpacked"):
        read_small(tmp_path / "a.npz", "labels")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_flipped_byte_of_a_mapped_array_is_found_by_its_checksum(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    check_member(tmp_path / "a.npz", "images")
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(images.tobytes()) + 20_000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    assert isinstance(open_member(tmp_path / "a.npz", "images"), np.memmap)
    with pytest.raises(ValueError, match=r"a\.npz: damaged: images is not what was written"):
        check_member(tmp_path / "a.npz", "images")


def test_what_is_no_archive_of_arrays_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([{}], dtype=object), rest=ARRAY)
    with pytest.raises(ValueError, match=r"a\.npz: an array of Python objects"):
        read_small(tmp_path / "a.npz", "images")
    with pytest.raises(ValueError, match=r"a folder, where an \.npz file is meant"):
        array_names(tmp_path)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert array_names(tmp_path / "b.npz") == []
    with pytest.raises(ValueError, match=r"b\.npz: truncated, or not an \.npz"):
        open_member(tmp_path / "b.npz", "images")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_small_arrays_are_what_numpy_reads(tmp_path, save):
    kinds = dict(a=np.arange(6).reshape(2, 3), b=np.array("text"), c=np.asfortranarray(ARRAY))
    save(tmp_path / "a.npz", **kinds)
    for name, array in kinds.items():
        np.testing.assert_array_equal(read_small(tmp_path / "a.npz", name), array)
