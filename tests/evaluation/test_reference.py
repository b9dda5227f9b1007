"""References made of data sets: what is in them, and that scores with them are right."""

import json

import numpy as np
import pytest
from PIL import Image

from data.sources import FolderSource
from evaluation import Evaluator, statistics
from evaluation.image_sets import open_images
from evaluation.make_reference import MakeReference, make_reference

pytestmark = pytest.mark.usefixtures("tiny_networks")


def test_an_npz_becomes_a_reference(tmp_path, images, tiny_networks):
    import torch

    array, labels = images(30, 0), np.arange(30) % 7
    np.savez(tmp_path / "data.npz", array, labels)
    out = tmp_path / "ref.npz"
    make_reference(MakeReference(str(tmp_path / "data.npz"), str(out), images=12))
    with np.load(out) as file:
        keys = {"arr_0", "arr_1", "mu", "sigma", "mu_s", "sigma_s", "recipe"}
        assert set(file) == keys
        features = tiny_networks(torch.from_numpy(array).permute(0, 3, 1, 2))
        for feature, keys in {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}.items():
            for key, expected in zip(keys, statistics(features[feature].numpy()), strict=True):
                np.testing.assert_allclose(file[key], expected, rtol=1e-5, atol=1e-6)
        same = (file["arr_0"][:, None] == array).all(axis=(2, 3, 4))  # (12, 30)
        chosen = same.argmax(axis=1)
        assert same.any(axis=1).all() and len(set(chosen.tolist())) == 12
        np.testing.assert_array_equal(file["arr_1"], labels[chosen])
        recipe = json.loads(str(file["recipe"]))
    assert recipe["images"] == 30 and recipe["inception_sha256"] == tiny_networks.sha256
    assert Evaluator(str(out)).evaluate([array]).metrics["fid"] == pytest.approx(0, abs=1e-6)
    assert "stored statistics, of " in Evaluator(str(out)).reference.summary()


@pytest.mark.filterwarnings("ignore:.*samples for")
def test_a_folder_is_cropped_as_for_training(tmp_path):
    random = np.random.default_rng(0)
    for i in range(6):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = random.integers(15, 60, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    out = tmp_path / "ref.npz"
    make_reference(MakeReference(str(tmp_path / "data"), str(out), image_size=12))
    trained = FolderSource("data", str(tmp_path / "data"), 12)
    expected = {(image.permute(1, 2, 0).numpy().tobytes(), label) for image, label in trained}
    opened = open_images(out)
    pairs = zip(opened.images, opened.labels, strict=True)
    assert {(image.tobytes(), int(label)) for image, label in pairs} == expected


def test_a_reference_of_an_unpacked_file_is_that_of_a_mapped_one(tmp_path, images):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / f"{save.__name__}.npz", images(20, 0))
        out = tmp_path / f"ref_{save.__name__}.npz"
        make_reference(MakeReference(str(tmp_path / f"{save.__name__}.npz"), str(out), images=20))
    stored, unpacked = (np.load(tmp_path / f"ref_{n}.npz") for n in ("savez", "savez_compressed"))
    np.testing.assert_allclose(stored["sigma"], unpacked["sigma"], rtol=1e-9)
    np.testing.assert_array_equal(unpacked["arr_0"], images(20, 0))
    assert sorted(i.tobytes() for i in stored["arr_0"]) == sorted(
        i.tobytes() for i in unpacked["arr_0"]
    )


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (r"--out x\.txt: the name must end in \.npz", dict(out="x.txt")),
        ("exists: remove it", dict(out="data.npz")),
        ("--images 3: it must be at least 4", dict(images=3)),
        (r"--image-size 8: .* images of 12x12", dict(image_size=8)),
        ("none is no file or folder of images", dict(data="none")),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, images, monkeypatch, message, changes):
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", images(9, 0))
    with pytest.raises(ValueError, match=message):
        make_reference(MakeReference(**(dict(data="data.npz", out="ref.npz") | changes)))
