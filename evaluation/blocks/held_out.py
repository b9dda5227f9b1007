"""Held-out images for the experiments: data of its own, or a part of the checkpoint's."""

import dataclasses
from pathlib import Path

import numpy as np

from data.class_names import number_alike
from data.source_protocol import IndexedSource
from data.sources import known_list
from evaluation.blocks.blocks_config import ALL, BlocksConfig, at_most
from evaluation.blocks.experiments import Subject
from evaluation.blocks.probed_checkpoint import ProbedCheckpoint, open_once
from runtime.randomness import PROBE


def with_split_folders(c: BlocksConfig) -> BlocksConfig:
    """Return settings in which a --data-path that holds train/ and val/ names both of them."""
    root = Path(c.data_path or "")
    parts = root / "train", root / "val"
    if not c.data_path or not all(part.is_dir() for part in parts):
        return c
    val = c.val_data_path or str(parts[1])
    return dataclasses.replace(c, data_path=str(parts[0]), val_data_path=val)


def open_held_out(
    one: ProbedCheckpoint, c: BlocksConfig, usual: int = ALL
) -> tuple[IndexedSource, np.ndarray]:
    """Return the data of --val-data-path and the numbers of its images that are used.

    Args:
        usual: how many where --val-samples does not say.
    """
    data = dataclasses.replace(one.data, data_path=c.val_data_path, dataset_name=None)
    source = open_once(data, "--val-data-path")
    source.check_codec(one.encoding.codec, one.data.known_size)
    there, here = source.num_classes, one.source.num_classes
    if there and here and there > here:
        raise ValueError(
            f"--val-data-path {c.val_data_path}: {there} classes, and the data of "
            f"{one.data.name_flag} has {here}; their labels would not agree"
        )
    source = number_alike(source, one.source, f"--val-data-path {c.val_data_path}")
    return source, some_images(len(source), at_most(c.val_samples, usual), c.seed)


def images_without_labels(subject: Subject, usual: int) -> tuple[IndexedSource, list[int]]:
    """Return images for a measurement that needs no labels: held-out ones where there are any."""
    c, one = subject.config, subject.checkpoint
    if c.val_data_path:
        source, numbers = open_held_out(one, c, usual)
        return source, numbers.tolist()
    return one.source, some_images(len(one.source), at_most(c.samples, usual), c.seed).tolist()


def lists_of(*sources: IndexedSource) -> list[str | None]:
    """Return what changes in a recipe when other images, or labels, lie at the same place."""
    return [known_list(source) for source in sources]


def some_images(count: int, most: int | None, seed: int) -> np.ndarray:
    """Return the numbers of at most `most` of `count` images, drawn at random, in order."""
    if most is None or most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng((PROBE, seed)).permutation(count)[:most])
