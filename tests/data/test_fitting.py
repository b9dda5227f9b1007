"""Image size, classes and codec come from the data, and those given must fit it."""

import pytest
from PIL import Image

from data.data_config import DataConfig, TrainingData
from data.fitting import FIRST, fitted


def save_images(root, sizes, classes=2, of_class=None):
    for i, (width, height) in enumerate(sizes):
        path = root / f"class{i % classes if of_class is None else of_class}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (i, i, i)).save(path)
    return str(root)


def settings(c: TrainingData) -> tuple:
    return c.image_size, c.num_classes, c.vae


@pytest.mark.parametrize(
    ("sizes", "side"),
    [([(32, 32)] * 4, 32), ([(48, 32)] * 4, 32), ([(300, 320), (32, 32), (40, 32)], 256)],
)
def test_a_folder_says_its_size_and_classes(tmp_path, sizes, side):
    suggested = fitted(TrainingData(data_path=save_images(tmp_path, sizes)))
    assert settings(suggested) == (side, 2, "ema")
    assert fitted(suggested) == suggested


def test_the_digits_say_all():
    assert settings(fitted(TrainingData(dataset_name="digits"))) == (8, 10, "none")


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_say_their_size_and_classes(tmp_path, streaming):
    import datasets

    images = [Image.new("RGB", (24, 20)) for _ in range(5)]
    columns = dict(image=images, label=[0, 1, 3, 1, 0])
    named = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=6))
    for name, label, classes in (("named", named["label"], 6), ("plain", None, 4)):
        kinds = named if label else datasets.Features(named | {"label": datasets.Value("int64")})
        folder = tmp_path / name
        folder.mkdir()
        datasets.Dataset.from_dict(columns, features=kinds).to_parquet(folder / "a.parquet")
        c = TrainingData(data_path=str(folder), streaming=streaming, label_column="label")
        if streaming and name == "plain":
            with pytest.raises(ValueError, match=r"--num-classes: .* does not say how many"):
                fitted(c)
        else:
            assert settings(fitted(c)) == (20, classes, "ema")


def test_unsigned_labels_are_read_and_those_from_1_warned_of(tmp_path, capsys):
    import datasets

    kinds = datasets.Features(image=datasets.Image(), label=datasets.Value("uint8"))
    for first in (0, 1):
        columns = dict(image=[Image.new("RGB", (8, 8))] * 3, label=[first, 2, 1])
        folder = tmp_path / f"from{first}"
        folder.mkdir()
        datasets.Dataset.from_dict(columns, features=kinds).to_parquet(folder / "a.parquet")
        c = fitted(TrainingData(data_path=str(folder), label_column="label"))
        assert c.num_classes == 3
        assert ("begin at 1 and classes at 0" in capsys.readouterr().err) == bool(first)


def test_only_the_first_images_count_and_unreadable_ones_do_not(tmp_path):
    root = save_images(tmp_path, [(16, 16)] * FIRST + [(64, 64)] * 3, classes=1)
    (tmp_path / "class0" / "0.png").write_bytes(b"no image")
    assert fitted(DataConfig(data_path=root)).image_size in (16, 256)  # as the file system lists
    other = save_images(tmp_path / "other", [(16, 16)] * 3)
    (tmp_path / "other" / "class0" / "0.png").write_bytes(b"no image")
    assert fitted(DataConfig(data_path=other)).image_size == 16


def test_what_is_given_must_fit(tmp_path):
    root = save_images(tmp_path, [(32, 32), (40, 30)])
    for message, given in [
        (r"--image-size 33: the first 2 .* at most 32x32; give a smaller one.* --resize", (33, 2)),
        (r"--image-size is 256 for images of several sizes: .*; give a smaller one", (None, 2)),
        ("--num-classes 10: the data has 2; leave it out", (32, 10)),
    ]:
        size, classes = given
        with pytest.raises(ValueError, match=message):
            fitted(TrainingData(data_path=root, image_size=size, num_classes=classes))
    enlarged = TrainingData(data_path=root, image_size=64, num_classes=2, resize=True)
    assert settings(fitted(enlarged)) == (64, 2, "ema")
    more = TrainingData(data_path=root, image_size=32, num_classes=10, vae="none")
    assert fitted(more, fewer_classes=True) == more


def test_missing_data_is_left_to_those_who_open_it(tmp_path):
    assert fitted(DataConfig(data_path=str(tmp_path / "none"))).image_size == 256
    assert fitted(DataConfig(data_path=str(tmp_path))).image_size == 256
