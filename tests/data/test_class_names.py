"""Held-out data has the numbers that its classes have in the data that is trained on."""

import datasets
import numpy as np
import pytest
from PIL import Image

from data.class_names import number_alike
from data.data_config import DataConfig
from data.sources import open_source


def folder(root, *classes):
    """One image for each class, all of the grey that its name's first letter stands for."""
    for name in classes:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (ord(name[0]),) * 3).save(root / name / "0.png")
    return opened(root)


def opened(root):
    return open_source(DataConfig(data_path=str(root), image_size=8))


def seen(source):
    """{grey: label} of the images as they are read."""
    items = [source[i] for i in range(len(source))]
    assert [label for _, label in items] == list(source.labels)
    return {int(image[0, 0, 0]): label for image, label in items}


def test_a_folder_without_one_of_the_classes_numbers_the_others_as_in_training(tmp_path):
    training = folder(tmp_path / "train", "apple", "fig", "pear")
    val = folder(tmp_path / "val", "apple", "pear")
    assert seen(val) == {ord("a"): 0, ord("p"): 1}
    renumbered = number_alike(val, training, "--val-data-path val")
    assert seen(renumbered) == {ord("a"): 0, ord("p"): 2} and renumbered.num_classes == 3
    assert seen(val) == {ord("a"): 0, ord("p"): 1}  # another checkpoint may have other classes


def test_rows_whose_features_have_another_order_are_renumbered(tmp_path):
    training = folder(tmp_path / "train", "apple", "fig", "pear")
    names = datasets.ClassLabel(names=["pear", "apple", "fig"])
    features = datasets.Features(image=datasets.Image(), label=names)
    images = [Image.new("RGB", (8, 8), (grey,) * 3) for grey in (1, 2, 3)]
    rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 2]}, features=features)
    (tmp_path / "val").mkdir()
    rows.to_parquet(str(tmp_path / "val" / "train-0.parquet"))
    assert seen(number_alike(opened(tmp_path / "val"), training, "")) == {1: 2, 2: 0, 3: 1}


def test_a_class_that_training_has_not_is_refused(tmp_path):
    training = folder(tmp_path / "train", "apple", "fig", "pear")
    val = folder(tmp_path / "val", "apple", "kiwi")
    message = r"--val-data-path val: 1 of its 2 classes \(kiwi\) are not among the 3 .*apple, fig"
    with pytest.raises(ValueError, match=message):
        number_alike(val, training, "--val-data-path val")


def test_other_names_for_all_classes_keep_their_order(tmp_path, capsys):
    """ImageNet's classes are tench on the hub and n01440764 in folders."""
    training = folder(tmp_path / "train", "tench", "whale")
    val = folder(tmp_path / "val", "n01", "n02")
    assert number_alike(val, training, "--val-data-path val") is val
    said = "--val-data-path val: its classes (n01, ...) have none of the names of those that are"
    assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="1 of its 1 classes"):  # which of the two?
        number_alike(folder(tmp_path / "one", "n01"), training, "--val-data-path one")


def test_classes_without_names_stay_as_they_are(tmp_path, capsys):
    named, digits = folder(tmp_path / "train", "a", "b"), opened_digits()
    assert number_alike(digits, named, "") is digits and number_alike(named, digits, "") is named
    numbered = folder(tmp_path / "numbers", "0", "1")
    assert number_alike(numbered, named, "") is numbered
    assert np.array_equal(numbered.labels, [0, 1])
    capsys.readouterr()
    assert number_alike(numbered, digits, "--val-data-path numbers") is numbered
    warning = "--val-data-path numbers: 2 classes without names, and 10 in the data"
    assert warning in capsys.readouterr().err


def opened_digits():
    return open_source(DataConfig(dataset_name="digits", image_size=8))
