"""Arrays in .npz files: mapped or unpacked piece by piece, always what numpy reads."""

import zipfile

import numpy as np
import pytest

from runtime.npz import CompressedArray, open_member, open_npy, write_array

ARRAY = np.random.default_rng(0).integers(0, 256, (37, 5, 4, 3), dtype=np.uint8)


def test_stored_arrays_are_mapped(tmp_path):
    np.savez(tmp_path / "a.npz", np.arange(3), images=ARRAY, labels=np.arange(37))
    found = open_member(tmp_path / "a.npz", "images")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, ARRAY)
    np.testing.assert_array_equal(open_member(tmp_path / "a.npz", "labels"), np.arange(37))


def test_arrays_that_sampling_streams_are_mapped(tmp_path):
    """Their zip headers have an extra field."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        write_array(archive, "arr_0", ARRAY.shape, ARRAY.dtype, [ARRAY[:9], ARRAY[9:]])
    found = open_member(tmp_path / "a.npz", "arr_0")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, ARRAY)


def test_compressed_arrays_are_unpacked_piece_by_piece(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=ARRAY)
    found = open_member(tmp_path / "a.npz", "images")
    assert isinstance(found, CompressedArray) and found.shape == ARRAY.shape
    monkeypatch.setattr("runtime.npz.SKIP", 100)
    for start, stop in [(0, 5), (5, 6), (20, 37), (3, 9), (36, 99)]:  # forward, over a gap, back
        np.testing.assert_array_equal(found[start:stop], ARRAY[start:stop])


def test_npy_is_mapped(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    found = open_npy(tmp_path / "a.npy")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, ARRAY)


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
