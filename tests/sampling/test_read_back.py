"""What was written is read back and compared: images by their sums, columns by their values."""

import zlib

import numpy as np
import pytest

from sampling.read_back import damaged_member, read_back

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(5)
SUMS = [(part.nbytes, zlib.crc32(part.tobytes())) for part in (IMAGES[:3], IMAGES[3:])]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(arr_0=IMAGES[::-1]), r"images of 000000\.npz are others there"),
        (dict(arr_0=IMAGES[:4]), r"images of 000001\.npz are others there"),
        (dict(arr_0=np.concatenate([IMAGES, IMAGES[:1]])), "more images than were made"),
        (dict(labels=LABELS[::-1]), "labels are others there"),
    ],
)
def test_what_is_another_is_named(tmp_path, change, said):
    whole = {"arr_0": IMAGES, "labels": LABELS}
    np.savez(tmp_path / "a.npz", **whole)
    read_back(tmp_path / "a.npz", SUMS, {"labels": LABELS})
    assert damaged_member(tmp_path / "a.npz") is None
    np.savez(tmp_path / "a.npz", **whole | change)
    with pytest.raises(ValueError, match=said):
        read_back(tmp_path / "a.npz", SUMS, {"labels": LABELS})
