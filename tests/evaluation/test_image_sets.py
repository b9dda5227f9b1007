"""Sets of images: the same in any form, and refused with a reason."""

import hashlib
import io
import os
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from data.decoding import center_crop, read_image
from evaluation.data_sets import open_any_images
from evaluation.image_sets import content_hash, open_folder, open_images


def save_folder(folder, array, suffix=".png"):
    for i, image in enumerate(array):
        path = folder / f"{i:06d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def test_every_form_holds_the_same_images(tmp_path, images):
    array = images(7, 0)
    np.savez(tmp_path / "a.npz", array)
    np.savez_compressed(tmp_path / "b.npz", pictures=array)
    np.save(tmp_path / "c.npy", array)
    save_folder(tmp_path / "d", array)
    for name, key in [
        ("a.npz", "arr_0"),
        ("b.npz", "pictures"),
        ("c.npy", "arr_0"),
        ("d", "arr_0"),
    ]:
        opened = open_images(tmp_path / name, key)
        assert len(opened) == 7 and opened.shape == array.shape[1:]
        np.testing.assert_array_equal(opened.images[0:4], array[:4])
        np.testing.assert_array_equal(opened.images[4:9], array[4:])


def test_labels_come_from_either_name_and_from_folders(tmp_path, images):
    array, labels = images(6, 0), np.array([0, 0, 1, 1, 2, 2])
    np.savez(tmp_path / "ours.npz", arr_0=array, labels=labels)
    np.savez(tmp_path / "adm.npz", array, labels)
    for label in range(3):
        save_folder(tmp_path / "classes" / "abc"[label], array[2 * label : 2 * label + 2])
    (tmp_path / "linked").mkdir()
    for label in "abc":
        (tmp_path / "linked" / label).symlink_to(tmp_path / "classes" / label)
    for name in ("ours.npz", "adm.npz", "classes", "linked"):
        opened = open_images(tmp_path / name)
        np.testing.assert_array_equal(opened.labels, labels)
        np.testing.assert_array_equal(opened.images[:], array)


def test_gray_files_become_rgb_and_are_cropped_as_adm_does(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8))
    for i in range(2):
        picture.save(tmp_path / f"{i}.PNG")
    opened = open_folder(tmp_path, image_size=16)
    expected = np.asarray(center_crop(picture.convert("RGB"), 16))
    np.testing.assert_array_equal(opened.images[:], [expected, expected])


def test_grey_and_float_images_are_decoded_as_training_decodes_them(tmp_path):
    """16-bit greys keep their upper byte, floats are refused."""
    ramp = (np.arange(144) * 400).astype(np.uint16).reshape(12, 12)
    for i in range(2):
        Image.fromarray(ramp).save(tmp_path / f"{i}.png")
    opened = open_images(tmp_path).images[:]
    np.testing.assert_array_equal(opened[1, ..., 0], ramp >> 8)
    np.testing.assert_array_equal(
        opened[0], read_image(tmp_path / "0.png", 12, "").permute(1, 2, 0)
    )
    Image.fromarray(np.ones((12, 12), np.float32)).save(tmp_path / "2.tiff")
    with pytest.raises(ValueError, match=r"2\.tiff: not a readable image \(floating-point"):
        open_images(tmp_path).images[:]


def test_a_folder_is_visited_once(tmp_path, images):
    save_folder(tmp_path / "set" / "a", images(2, 0))
    save_folder(tmp_path / "set" / "b", images(2, 1))
    before = open_images(tmp_path / "set")
    (tmp_path / "set" / "b" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "above").symlink_to(tmp_path)
    after = open_images(tmp_path / "set")
    assert after.images.paths == before.images.paths
    np.testing.assert_array_equal(after.labels, before.labels)


def test_flipped_bytes_are_found_when_a_set_is_opened(tmp_path, images):
    array = images(40, 0)
    np.savez(tmp_path / "s.npz", array)
    content = bytearray((tmp_path / "s.npz").read_bytes())
    content[content.index(array.tobytes()) + 9000] ^= 1
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"s\.npz: damaged: arr_0 is not what was written"):
        open_images(tmp_path / "s.npz")


def test_an_image_larger_than_memory_is_refused_for_what_it_says(tmp_path):
    """Two of 20,000 x 20,000 pixels, 2.4 GB, by what the archive and the array declare."""
    wide = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 20000, 20000, 3), }"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(wide)) + wide
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("arr_0.npy", content)
        file.getinfo("arr_0.npy").file_size = len(content) + 2_400_000_000  # as it declares
    with pytest.raises(ValueError, match=r"bomb\.npz: images of 20000x20000 pixels"):
        open_images(tmp_path / "bomb.npz")


@pytest.mark.parametrize("recipe", ["[1]", "[" * 100_000, "{"])
def test_a_recipe_that_is_no_object_is_refused(tmp_path, images, recipe):
    np.savez(tmp_path / "s.npz", arr_0=images(4, 0), recipe=recipe)
    with pytest.raises(ValueError, match=r"s\.npz: its recipe is no"):
        open_images(tmp_path / "s.npz")


def test_array_is_for_files_with_names(tmp_path, images):
    save_folder(tmp_path / "d", images(2, 0))
    np.save(tmp_path / "c.npy", images(2, 0))
    for name in ("d", "c.npy"):
        with pytest.raises(ValueError, match=f"--array x: .*{name} is no .npz"):
            open_images(tmp_path / name, "x")


IMAGES = np.zeros((5, 8, 8, 3), np.uint8)
FLOATS = np.linspace(-1, 1, IMAGES.size, dtype=np.float32).reshape(IMAGES.shape)


@pytest.mark.parametrize(
    ("message", "arrays"),
    [
        ("no arr_0 in it, only images; --array NAME", dict(images=IMAGES)),
        (r"uint8 .* float32 .* from -1 to 1; for a range .* store", dict(arr_0=FLOATS)),
        (r"uint8 images \(N, H, W, C\), it is uint8 \(5, 8, 8\)", dict(arr_0=IMAGES[..., 0])),
        (r"it is uint8 \(5, 3, 8, 8\)", dict(arr_0=IMAGES.transpose(0, 3, 1, 2).copy())),
        ("1 images in it, at least 2", dict(arr_0=IMAGES[:1])),
        ("5 images and labels int64", dict(arr_0=IMAGES, labels=np.arange(4))),
        (r"labels float64 \(5,\)", dict(arr_0=IMAGES, arr_1=np.zeros(5))),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, message, arrays):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / "s.npz")


def test_wrong_files_are_refused(tmp_path, images):
    with pytest.raises(ValueError, match=r"none\.npz: no such file"):
        open_images(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"truncated, or not an \.npz"):
        open_images(tmp_path / "text.npz")
    np.savez(tmp_path / "s.npz", images(20, 0))
    content = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"truncated, or not an \.npz"):
        open_images(tmp_path / "s.npz")


def test_wrong_folders_are_refused(tmp_path, images):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: 0 images"):
        open_images(tmp_path / "empty")
    save_folder(tmp_path / "mixed", images(2, 0))
    Image.new("RGB", (9, 7)).save(tmp_path / "mixed" / "x.png")
    with pytest.raises(ValueError, match=r"x\.png is 9x7 pixels and 000000\.png 12x12"):
        open_images(tmp_path / "mixed")
    save_folder(tmp_path / "text", images(2, 0))
    (tmp_path / "text" / "x.png").write_text("hello")
    with pytest.raises(ValueError, match=r"x\.png: not a readable image"):
        open_images(tmp_path / "text")


def test_a_broken_image_is_named_when_it_is_reached(tmp_path):
    save_folder(tmp_path, np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
    content = (tmp_path / "000001.png").read_bytes()
    (tmp_path / "000001.png").write_bytes(content[:3000])
    opened = open_images(tmp_path)
    with pytest.raises(ValueError, match=r"000001\.png: not a readable image"):
        opened.images[0:2]


def test_an_image_that_has_another_size_by_now_is_named(tmp_path, images):
    save_folder(tmp_path, images(2, 0))
    opened = open_images(tmp_path)
    Image.new("RGB", (9, 7)).save(tmp_path / "000001.png")
    said = r"000001\.png: it is \(7, 9, 3\) now, and was \(12, 12, 3\)"
    with pytest.raises(ValueError, match=said):
        opened.images[0:2]


def test_hash_depends_on_content_and_names(tmp_path, images):
    save_folder(tmp_path / "a", images(3, 0))
    save_folder(tmp_path / "b", images(3, 0))
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    (tmp_path / "b" / "000002.png").rename(tmp_path / "b" / "000003.png")
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def write_parquet(path, array):
    import datasets

    column = []
    for image in array:
        buffer = io.BytesIO()
        if image is not None:
            Image.fromarray(image).save(buffer, "png")
        column.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    rows = {"img": column, "label": [i % 2 for i in range(len(array))]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


def test_parquet_and_folder_of_it_are_data_sets(tmp_path, images, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    array = images(5, 0)
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-0.parquet", array)
    for name in ("data", "data/train-0.parquet"):
        opened = open_any_images(str(tmp_path / name), 12)
        assert opened.shape == (12, 12, 3)
        np.testing.assert_array_equal(opened.images[1:5], array[1:])
        np.testing.assert_array_equal(opened.labels, [0, 1, 0, 1, 0])


def test_a_row_that_is_no_image_is_named_when_it_is_reached(tmp_path, images, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_parquet(tmp_path / "a.parquet", [*images(2, 0), None])
    opened = open_any_images(str(tmp_path / "a.parquet"), 12)
    assert opened.images[0:2].shape == (2, 12, 12, 3)
    with pytest.raises(ValueError, match=r"^row 2.*not a readable image"):
        opened.images[0:3]


def test_sources_that_do_not_fit_are_refused(tmp_path, images):
    np.savez(tmp_path / "a.npz", images(5, 0))
    with pytest.raises(ValueError, match=r"--image-size 8: .*a\.npz holds images of 12x12"):
        open_any_images(str(tmp_path / "a.npz"), 8)
    with pytest.raises(ValueError, match=r"nothing is no file or folder .* --image-size"):
        open_any_images("nothing", None)


def test_names_that_are_not_utf8_are_hashed_as_their_bytes(tmp_path):
    """Archives of the last century have such names; file systems take any byte."""
    for name in (b"caf\xe9.png", b"caf\xe8.png"):
        folder = tmp_path / str(name[3])
        folder.mkdir()
        Image.new("L", (2, 2)).save(os.path.join(os.fsencode(folder), name))
    e, f = (content_hash(tmp_path / str(code)) for code in (0xE9, 0xE8))
    image = (tmp_path / str(0xE9) / os.fsdecode(b"caf\xe9.png")).read_bytes()
    assert e != f and e == hashlib.sha256(b"caf\xe9.png" + image).hexdigest()
