"""Streamed data: every row once an epoch, the same batches for any number of processes."""

import dataclasses
import io
from itertools import chain

import numpy as np
import pytest
import torch
from launching import TINY_DIGITS, logged_rows
from PIL import Image

import train
from data.data_config import TrainingData
from data.loader import make_step_loader
from data.order import StepBatches, batch_shard
from data.sources import load_source
from data.streams import count_rows, lane_count
from runtime.command import RunError

BATCH, FILES, ROWS = 8, 4, 6  # three steps an epoch


def png(value: int) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, format="png")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Image i is i red, in four files of six."""
    import datasets

    root = tmp_path_factory.mktemp("parquet")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=3))
    for k in range(FILES):
        numbers = range(k * ROWS, (k + 1) * ROWS)
        rows = {"image": [png(i) for i in numbers], "label": [i % 3 for i in numbers]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            root / f"train-{k:05d}-of-{FILES:05d}.parquet"
        )
    return str(root)


def config(parquet, **changes):
    there = dict(data_path=parquet, streaming=True, image_size=8, num_classes=3)
    return TrainingData(**(there | changes))


def numbers(source, first=0, last=6, rank=0, world_size=1, seed=0, workers=0):
    """Return the numbers of the images in each batch of a process, checked against their labels."""
    shard = batch_shard(BATCH, rank, world_size)
    order = StepBatches(len(source), BATCH, seed, first, last, shard)
    batches = []
    for packed in make_step_loader(source, order, workers):
        batches.append(packed["images"][:, 0, 0, 0].tolist())
        assert packed["labels"].tolist() == [i % 3 for i in batches[-1]]
    return batches


@pytest.fixture(scope="module")
def source(parquet):
    return load_source(config(parquet), BATCH)


@pytest.fixture(scope="module")
def whole(source):
    return numbers(source)


def flat(lists):
    return list(chain.from_iterable(lists))


def test_an_epoch_visits_every_row_once_and_epochs_and_seeds_differ(source, whole):
    assert len(source) == FILES * ROWS
    epochs = [flat(whole[:3]), flat(whole[3:])]
    for epoch in epochs:
        assert sorted(epoch) == list(range(FILES * ROWS))
    assert epochs[0] != epochs[1] and whole != numbers(source, seed=1)


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_any_number_of_processes_share_the_same_batches(source, whole, world_size):
    shares = [numbers(source, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [flat(parts) for parts in zip(*shares, strict=True)] == whole


@pytest.mark.parametrize("first", [2, 3, 4])
def test_starting_later_continues_the_same_sequence(source, whole, first):
    assert numbers(source, first) == whole[first:]


def test_a_loading_process_with_threads_gives_the_same(source, whole):
    assert numbers(source, workers=3) == whole


def test_lanes_divide_the_batch_and_have_a_file_each():
    assert lane_count(256, 294) == 256 and lane_count(256, 100) == 64
    assert lane_count(6, 4) == 3 and lane_count(7, 4) == 1


def test_a_label_outside_the_classes_ends_the_run(parquet):
    with pytest.raises(ValueError, match="--num-classes 2: the data has 3 classes"):
        load_source(config(parquet, num_classes=2), BATCH)
    source = load_source(config(parquet), BATCH)
    source.classes = 2  # as with plain integers, which do not say how many classes there are
    with pytest.raises(RunError, match=r"row . of file .: label 2, --num-classes says 2"):
        numbers(source)


def test_a_stream_whose_length_is_not_known_is_refused(tmp_path):
    import datasets

    (tmp_path / "train.csv").write_text("image,label\n1,2\n")
    rows = datasets.load_dataset(str(tmp_path), split="train", streaming=True)
    with pytest.raises(ValueError, match=r"number of rows.*csv.*without --streaming"):
        count_rows(rows, str(tmp_path), None)


def test_training_on_a_stream_resumes_bit_for_bit(parquet, tmp_path):
    run = dataclasses.replace(
        TINY_DIGITS,
        **dict(dataset_name=None, data_path=parquet, streaming=True, num_classes=3),
        max_steps=5,
        results_dir=str(tmp_path),
    )
    rows = []
    for name, stops in dict(whole=[5], parts=[2, 5]).items():
        for stop in stops:
            part = dataclasses.replace(run, run_name=name, max_steps=stop, resume="latest")
            train.Training(part).run()
        rows.append(logged_rows(tmp_path / name))
    assert len(rows[0]) == 5 and rows[0] == rows[1]
    np.testing.assert_array_less(0, rows[0][0][0])
    assert torch.isfinite(torch.tensor(rows[0])).all()
