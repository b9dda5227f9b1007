"""Sources that --data-path and --dataset-name can name: folders, parquet files, the digits."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from data.data_config import TrainingData
from data.decoding import UnreadableImage
from data.loader import make_step_loader
from data.order import StepBatches
from data.rows import choose_split
from data.sources import (
    DigitsSource,
    FolderSource,
    list_fingerprint,
    load_indexed,
    load_source,
)


def test_digits_are_sklearns():
    from sklearn.datasets import load_digits

    source, digits = DigitsSource(), load_digits()
    image, label = source[5]
    assert len(source) == 1797 and image.shape == (1, 8, 8) and image.dtype == torch.uint8
    assert isinstance(label, int) and np.array_equal(source.labels, digits.target)
    assert np.abs(source.images[:, 0].numpy() / 255 * 16 - digits.images).max() < 0.05


def test_digits_are_the_same_without_their_file(monkeypatch):
    """By scikit-learn's function, where a version of it keeps them elsewhere."""
    read = DigitsSource()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    asked = DigitsSource()
    assert torch.equal(read.images, asked.images) and np.array_equal(read.labels, asked.labels)


def png(value: int) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(buffer, format="png")
    return {"bytes": buffer.getvalue(), "path": None}


def write_parquet(folder, columns: dict, **features):
    """Files of rows; `features` for the columns that are not plain values."""
    import datasets

    rows = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        rows = rows.cast_column(name, feature)
    rows.to_parquet(folder / "train-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture
def parquet(tmp_path):
    """As ILSVRC/imagenet-1k is laid out, with columns of other names."""
    import datasets

    columns = {"img": [png(10 * i) for i in range(6)], "cls": [i % 4 for i in range(6)]}
    kinds = dict(img=datasets.Image(), cls=datasets.ClassLabel(num_classes=4))
    return write_parquet(tmp_path, columns, **kinds)


def load(batch=2, given=None, **changes):
    data = TrainingData(**(dict(image_size=8, num_classes=10) | changes))
    return load_indexed(data, batch, given) if given else load_source(data, batch)


@pytest.mark.parametrize("flag", ["data_path", "dataset_name"])
def test_parquet_folder(parquet, flag):
    source = load(num_classes=4, **{flag: parquet})
    assert len(source) == 6 and source.num_classes == 4
    image, label = source[5]
    assert (image == 50).all() and label == 1
    batch = next(iter(make_step_loader(source, StepBatches(6, 2, 0, 0, 1, range(2)), 0)))
    assert batch["images"].shape == (2, 3, 8, 8) and batch["labels"].dtype == torch.int64


def test_columns_are_given_where_they_cannot_be_found(tmp_path):
    import datasets

    columns = {
        "a": [png(i) for i in range(4)],
        "b": [png(100 + i) for i in range(4)],
        "kind": [3, 1, 4, 1],
        "text": ["w"] * 4,
    }
    folder = write_parquet(tmp_path, columns, a=datasets.Image(), b=datasets.Image())
    there = dict(data_path=folder, image_column="b", label_column="kind")
    source = load(**there)
    image, label = source[2]
    assert (image == 102).all() and label == 4
    wrong = {
        "2 columns of type Image; give --image-column with one of a, b, kind, text": dict(
            image_column=None
        ),
        "0 columns of type ClassLabel; give --label-column": dict(label_column=None),
        "no column image; give --image-column with one of a, b": dict(image_column="image"),
        "--label-column text: .* has Value.*string.* there, not integers": dict(
            label_column="text"
        ),
        "--image-column kind: .* has .* there, not images": dict(image_column="kind"),
        "row 2 of the data: label 4, --num-classes says there are 4 classes": dict(num_classes=4),
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            load(**(there | changes))


def test_a_row_without_an_image_is_an_unreadable_image(tmp_path):
    import datasets

    columns = {"image": [png(0), None], "label": [0, 1]}
    folder = write_parquet(tmp_path, columns, image=datasets.Image())
    source = load(data_path=folder, num_classes=2, label_column="label")
    assert source[0][0].shape == (3, 8, 8)
    with pytest.raises(UnreadableImage, match=r"row 1.*not a readable image \(empty\)"):
        source[1]


def test_labels_outside_their_own_features_are_refused(tmp_path):
    import datasets

    columns = {"image": [png(0)] * 3, "label": [0, -1, 1]}  # -1: a test split without labels
    kinds = dict(image=datasets.Image(), label=datasets.ClassLabel(num_classes=2))
    folder = write_parquet(tmp_path, columns, **kinds)
    with pytest.raises(ValueError, match=r"row 1 of the data: label -1.*2 classes.*1 of 3"):
        load(data_path=folder)


def test_bad_image_is_named_and_not_replaced(tmp_path):
    path = tmp_path / "class" / "broken.png"
    path.parent.mkdir()
    path.write_bytes(b"not an image")
    with pytest.raises(UnreadableImage, match=r"broken\.png: not a readable image"):
        FolderSource("--data-path", str(tmp_path), 8)[0]


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("--data-path /no/such: no such folder", dict(data_path="/no/such")),
        ("--dataset-name ./nowhere: cannot be loaded", dict(dataset_name="./nowhere")),
        ("--num-classes 7: the data has 10", dict(dataset_name="digits", num_classes=7)),
        ("8x8 images", dict(dataset_name="digits", image_size=16)),
        ("--streaming: .*digits is neither", dict(dataset_name="digits", streaming=True)),
        ("--image-column: .*digits is", dict(dataset_name="digits", image_column="x")),
        ("2000 is more than the 1797", dict(dataset_name="digits", batch=2000)),
    ],
)
def test_missing_or_unfit_data_is_refused(message, changes):
    with pytest.raises(ValueError, match=message):
        load(**changes)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one folder of images for each class"):
        load(data_path=str(tmp_path))


def test_the_flag_that_was_given_is_the_one_that_is_named(tmp_path):
    (tmp_path / "file.txt").write_text("x")
    given = "--val-data-path"
    for message, name in {
        "--val-data-path /no/such: no such folder": "/no/such",
        "--val-data-path .*file.txt: a file; give the folder": str(tmp_path / "file.txt"),
        "--val-data-path .*: it must hold one folder of images": str(tmp_path),
    }.items():
        with pytest.raises(ValueError, match=message):
            load(given=given, data_path=name)
    with pytest.raises(ValueError, match="--num-classes 7: the data of --val-data-path has 10"):
        load(given=given, dataset_name="digits", num_classes=7)


def test_a_link_to_the_folder_itself_adds_no_images(tmp_path):
    for name in ("a/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(7)["bytes"])
    before = load(data_path=str(tmp_path))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    after = load(data_path=str(tmp_path))
    assert (list(after.names), after.num_classes) == (list(before.names), 2)


def test_both_columns_are_asked_for_at_once(tmp_path):
    """Parquet files that do not say which column is an image, as other programs write them."""
    import pyarrow
    import pyarrow.parquet

    rows = pyarrow.table({"image": [png(7)] * 4, "label": [2] * 4})
    pyarrow.parquet.write_table(rows, tmp_path / "train.parquet")
    both = r"has 0 columns of type Image; give --image-column .*; and 0 columns .*--label-column"
    with pytest.raises(ValueError, match=both):
        load(data_path=str(tmp_path))
    source = load(data_path=str(tmp_path), image_column="image", label_column="label")
    assert (source[3][0] == 7).all() and source[3][1] == 2


@pytest.fixture
def splits(tmp_path):
    """Write folders of parquet files with the splits that a test names: 2 images in the first,
    3 in the second and so on."""
    import datasets

    def write(*names: str) -> str:
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for count, name in enumerate(names, start=2):
            rows = datasets.Dataset.from_dict({"img": [png(9)] * count, "label": [0] * count})
            rows = rows.cast_column("img", datasets.Image())
            rows.to_parquet(folder / f"{name}-00000-of-00001.parquet")
        return str(folder)

    return write


@pytest.mark.parametrize(
    "names, given, split, count",
    [
        (("test", "train"), None, None, 3),
        (("test", "train"), None, "test", 2),
        (("test", "train"), "--val-data-path", None, 2),
        (("test", "train", "validation"), "--val-data-path", None, 4),
        (("test",), None, None, 2),
        (("train",), "--val-data-path", None, 2),
    ],
)
def test_the_split_that_is_read(splits, names, given, split, count):
    columns = dict(image_column="img", label_column="label")
    assert len(load(given=given, data_path=splits(*names), split=split, **columns)) == count


@pytest.mark.parametrize("streaming", [True, False])
def test_a_split_that_is_not_there_is_named_with_those_that_are(splits, streaming):
    words = "--data-path .*no split nope; give --split with one of train, test"
    with pytest.raises(ValueError, match=words):
        load(data_path=splits("train", "test"), split="nope", streaming=streaming)
    words = "--val-data-path .*no split validation or val or test; give --val-split with one of"
    with pytest.raises(ValueError, match=words):
        choose_split("--val-data-path", "NAME", ["train", "extra"], wanted=None)


def test_a_stream_reads_and_counts_its_split(splits):
    columns = dict(image_column="img", label_column="label", streaming=True)
    source = load(data_path=splits("train", "test"), split="test", **columns)
    assert len(source) == 3


def test_names_that_are_not_utf8_are_images_like_others(tmp_path):
    (tmp_path / "a").mkdir()
    for name in (b"caf\xe9.png", b"b.png"):
        Image.new("RGB", (8, 8)).save(os.path.join(os.fsencode(tmp_path / "a"), name))
    source = load_source(TrainingData(data_path=str(tmp_path), num_classes=1, image_size=8), 1)
    assert len(source) == 2 and len(list_fingerprint(source)) == 16


def test_a_path_that_would_be_taken_for_a_pattern_is_refused(parquet, tmp_path):
    """`datasets` read another folder, or none."""
    folder = tmp_path / "a[b]"
    folder.symlink_to(parquet)
    with pytest.raises(ValueError, match="for a pattern; give the data by another name"):
        load(data_path=str(folder))
