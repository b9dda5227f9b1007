"""The parts of a set of samples: only those that are whole, and of these images, count."""

import numpy as np
import pytest

from runtime.command import RunError
from sampling.parts import SampleParts

COLUMNS = {"nfe": np.full(2, 4), "network_passes": np.full(2, 4)}


def images(count: int, side: int = 4) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def test_a_part_of_other_images_is_not_one_of_this_set(tmp_path):
    parts = SampleParts(tmp_path / "a.npz", {"seed": 0}, count=4, batch=2, image_shape=(4, 4, 1))
    parts.prepare()
    for k in range(2):
        parts.write(k, images(2), **COLUMNS)
    assert parts.finished(0) and not parts.known_whole - {0}
    np.savez(parts.path(1), images=images(2, side=5), **COLUMNS)
    with pytest.raises(RunError, match=r"0001\.npz was damaged \(.*images of shape \(2, 5, 5, 1"):
        parts.assemble()
    assert not parts.path(1).exists() and not parts.out.exists()
    np.savez(parts.path(1), images=images(1), **COLUMNS)
    assert not parts.finished(1) and not parts.path(1).exists()
    parts.write(1, images(2), **COLUMNS)
    assert parts.assemble()["nfe"] == {"mean": 4.0, "max": 4}
    np.testing.assert_array_equal(np.load(parts.out)["arr_0"], np.concatenate([images(2)] * 2))
