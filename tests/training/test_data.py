"""Sources, the order of an epoch, and the shares of the processes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from training.config import TrainConfig
from training.data import (
    DigitsSource,
    FolderSource,
    StepBatches,
    batch_shard,
    center_crop,
    load_source,
    make_loader,
)


def epoch_of_batches(shards, first=0, last=6, length=26, batch=8):
    return [list(StepBatches(length, batch, 0, first, last, shard)) for shard in shards]


def test_processes_share_each_batch_in_order():
    (whole,) = epoch_of_batches([range(8)])
    halves = epoch_of_batches([batch_shard(8, rank, 2) for rank in (0, 1)])
    assert whole == [a + b for a, b in zip(*halves, strict=True)]


def test_an_epoch_repeats_no_image_and_epochs_differ():
    (batches,) = epoch_of_batches([range(8)])
    epochs = [[i for batch in part for i in batch] for part in (batches[:3], batches[3:])]
    for epoch in epochs:
        assert len(set(epoch)) == 24
    assert epochs[0] != epochs[1]


def test_starting_later_continues_the_same_sequence():
    (whole,) = epoch_of_batches([range(8)])
    (rest,) = epoch_of_batches([range(8)], first=4)
    assert whole[4:] == rest


def test_uneven_shares_are_refused():
    with pytest.raises(ValueError, match="--global-batch-size 10 is not divisible by the 4"):
        batch_shard(10, 0, 4)


def test_digits_are_sklearns():
    from sklearn.datasets import load_digits

    source = DigitsSource()
    image, label = source[5]
    assert len(source) == 1797 and image.shape == (1, 8, 8) and image.dtype == torch.uint8
    assert np.abs(image[0].numpy() / 255 * 16 - load_digits().images[5]).max() < 0.05
    assert label == load_digits().target[5]


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (100, 50), (31, 64)])
def test_center_crop_is_a_centred_square(size):
    """A horizontal ramp keeps its middle in the middle and its slope, whatever the size."""
    width, height = size
    ramp = np.tile(np.linspace(0, 255, width), (height, 1)).astype(np.uint8)
    cropped = np.asarray(center_crop(Image.fromarray(ramp).convert("RGB"), 8), dtype=float)
    assert cropped.shape == (8, 8, 3)
    row = cropped.mean(axis=(0, 2))
    assert abs(row.mean() - 127.5) < 255 / 8 and (np.diff(row) > 0).all()
    slope = 255 / width * min(size) / 8  # brightness per pixel of the crop
    assert np.diff(row)[2:5].mean() == pytest.approx(slope, rel=0.2)


def test_center_crop_halves_with_a_box_filter():
    """At exactly twice the size ADM's crop is the mean of 2x2 pixels, as a reshape computes it."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    means = image.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    cropped = np.asarray(center_crop(Image.fromarray(image), 8))
    assert np.abs(cropped - means).max() <= 1


def test_folder_reads_modes_that_are_not_rgb(tmp_path):
    for i, mode in enumerate(["RGB", "L", "CMYK", "P"]):
        path = tmp_path / "class" / f"{i}.{'jpg' if mode == 'CMYK' else 'png'}"  # no CMYK PNGs
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 10), (200, 200, 200)).convert(mode).save(path)
    source = FolderSource(str(tmp_path), 8)
    for i in range(4):  # the palette has no exact grey and is dithered
        assert abs(source[i][0].float().mean() - 200) < 4, i


def test_bad_image_is_named_and_not_replaced(tmp_path):
    path = tmp_path / "class" / "broken.png"
    path.parent.mkdir()
    path.write_bytes(b"not an image")
    with pytest.raises(RuntimeError, match=r"broken\.png: not a readable image"):
        FolderSource(str(tmp_path), 8)[0]


def test_parquet_folder(tmp_path):
    import datasets

    def png(value):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (value,) * 3).save(buffer, format="png")
        return {"bytes": buffer.getvalue(), "path": None}

    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(num_classes=4))
    rows = {"img": [png(10 * i) for i in range(6)], "label": [i % 4 for i in range(6)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(
        tmp_path / "train-00000-of-00001.parquet"
    )
    source = load_source(config(dataset_name=str(tmp_path), num_classes=4))
    assert len(source) == 6 and source.num_classes == 4
    image, label = source[5]
    assert (image == 50).all() and label == 1
    batch = next(iter(make_loader(source, StepBatches(6, 2, 0, 0, 1, range(2)), 0)))
    assert batch[0].shape == (2, 3, 8, 8) and batch[1].dtype == torch.int64


def config(**changes):
    return TrainConfig(**(dict(image_size=8, num_classes=10, global_batch_size=2) | changes))


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("--data-path /no/such: no such folder", dict(data_path="/no/such")),
        ("--dataset-name ./nowhere: cannot be loaded", dict(dataset_name="./nowhere")),
        ("--num-classes 7: the data has 10", dict(dataset_name="digits", num_classes=7)),
        ("8x8 images", dict(dataset_name="digits", image_size=16)),
        ("2000 is more than the 1797", dict(dataset_name="digits", global_batch_size=2000)),
    ],
)
def test_missing_or_unfit_data_is_refused(message, changes):
    with pytest.raises(ValueError, match=message):
        load_source(config(**changes))


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one folder of images for each class"):
        load_source(config(data_path=str(tmp_path)))
