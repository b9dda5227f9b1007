"""Data sets that consist of rows: data sets of the Hugging Face hub, and parquet files."""

import dataclasses
import os
from functools import lru_cache

import numpy as np
from torch import Tensor

from data.data_config import DataConfig, DataLocation
from data.decoding import UnreadableImage, read_image
from runtime.command import RunError

HELD_OUT = "--val-data-path"
HELD_OUT_SPLITS = ("validation", "val", "test")  # the first of these that there is
HUB_NAMES = {"imagenet-1k": "ILSVRC/imagenet-1k"}  # the original's spelling, and where it is


class Columns:
    """The image and label columns of a `datasets` data set: as given, else found by type."""

    def __init__(self, where: str, features: dict, image: str | None, label: str | None):
        import datasets

        self.where, self.features = where, features
        wanted = (
            ("--image-column", image, datasets.Image),
            ("--label-column", label, datasets.ClassLabel),
        )
        problems, names = [], []
        for flag, given, kind in wanted:
            try:
                names.append(self.find(flag, given, kind))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError(f"{where} has {'; and '.join(problems)}")
        self.image, self.label = names
        feature = features[self.image]
        if not isinstance(feature, datasets.Image) and not holds_files(feature):
            raise ValueError(f"--image-column {image}: {where} has {feature} there, not images")
        feature = features[self.label]
        # plain integers do not say how many classes there are
        self.num_classes = getattr(feature, "num_classes", None)
        self.class_names: list[str] | None = getattr(feature, "names", None)
        if self.num_classes is None and not is_integer(feature):
            raise ValueError(f"--label-column {label}: {where} has {feature} there, not integers")

    def find(self, flag: str, given: str | None, kind: type) -> str:
        if given is not None and given in self.features:
            return given
        matches = [name for name, feature in self.features.items() if isinstance(feature, kind)]
        if len(matches) == 1 and given is None:
            return matches[0]
        what = f"no column {given}" if given else f"{len(matches)} columns of type {kind.__name__}"
        raise ValueError(f"{what}; give {flag} with one of {', '.join(self.features)}")

    def read(self, row: dict, size: int, name: str) -> tuple[Tensor, int]:
        """Return the image (3, size, size) and the label of a row, and decode the image."""
        image, label = row[self.image], row[self.label]
        if label is None:
            raise RunError(f"{name}: its label is missing; remove that row, or give it one")
        if not image or not (image["bytes"] or image["path"]):
            raise UnreadableImage(f"{name}: not a readable image (empty)")
        return read_image(image["bytes"] or image["path"], size, name), int(label)

    def labels(self, rows) -> np.ndarray:
        """Return the labels of all rows, int64 (N,); `ValueError` where one is missing."""
        labels = np.asarray(rows.with_format("numpy")[self.label][:])
        if labels.dtype.kind not in "iu" and len(labels):  # null is NaN there
            missing = np.flatnonzero(np.isnan(labels.astype(np.float64)))
            raise ValueError(
                f"row {missing[0]} of the data: its label is missing ({len(missing)} of "
                f"{len(labels)} are); remove those rows, or give them labels"
            )
        return labels.astype(np.int64)


def holds_files(feature) -> bool:
    """Return whether a column's values are image files without the type `datasets.Image`."""
    return isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()


def is_integer(feature) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint"))


def choose_split(given: str, name: str, splits: list[str], wanted: str | None) -> str:
    """Choose what is read of the data that the flag `given` names.

    The split that is wanted; else "train", for held-out data "validation" or "test"; else the only
    one. `ValueError` with the names there are when none of these exists.
    """
    usual = HELD_OUT_SPLITS if given == HELD_OUT else ("train",)
    for split in (wanted,) if wanted else usual:
        if split in splits:
            return split
    if len(splits) == 1 and not wanted:
        return splits[0]
    flag = "--val-split" if given == HELD_OUT else "--split"
    lacking = f"no split {wanted}" if wanted else f"no split {' or '.join(usual)}"
    raise ValueError(f"{given} {name}: {lacking}; give {flag} with one of {', '.join(splits)}")


def load_rows(given: str, name: str, c: DataConfig, streaming: bool):
    """Return the split that `datasets` loads by that name and `choose_split`, and its `Columns`."""
    fields = dataclasses.fields(DataLocation)
    location = DataLocation(**{field.name: getattr(c, field.name) for field in fields})
    return open_rows(given, name, location, streaming)


@lru_cache(maxsize=1)  # the same data is opened twice: to look at it, then for use
def open_rows(given: str, name: str, c: DataLocation, streaming: bool):
    import datasets

    if os.path.exists(name) and set(os.path.abspath(name)) & set("*?["):
        raise ValueError(
            f"{given} {name}: `datasets` takes * ? [ in a path for a pattern; give the data by "
            f"another name, as that of a symbolic link"
        )
    where = {"path": HUB_NAMES.get(name, name)}
    if name.endswith(".parquet"):
        where = {"path": "parquet", "data_files": name}
    try:
        splits = datasets.load_dataset(**where, cache_dir=c.cache_dir, streaming=streaming)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{given} {name}: cannot be loaded ({reason}); or give --data-path FOLDER with one "
            f"folder of images for each class"
        ) from error
    rows = splits[choose_split(given, name, list(splits), c.split)]
    columns = Columns(f"{given} {name}", rows.features or {}, c.image_column, c.label_column)
    if isinstance(rows.features[columns.image], datasets.Image):
        rows = rows.cast_column(columns.image, datasets.Image(decode=False))
    return rows, columns
