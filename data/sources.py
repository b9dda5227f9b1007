"""Sources of images and labels: folders, the hub, parquet files, digits, and their latents.

Each is a `Source` (data/source_protocol.py). A new kind of data is a class here, or in a file of
its own, and a line in `open_source`.
"""

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.data_config import DataConfig, TrainingData
from data.decoding import read_image
from data.folders import class_images
from data.latent_manifest import is_latent_cache
from data.latents import LatentSource
from data.names import Names
from data.rows import HUB_NAMES, load_rows
from data.source_protocol import ImageSource, IndexedSource, NamedSource, Source
from data.streams import StreamSource
from data.tiny_imagenet import TinyValidation, is_tiny_validation
from runtime.hub import is_hub_name
from runtime.processes import told_by_first

AnySource = TypeVar("AnySource", bound=Source)


def load_source(c: TrainingData, batch: int) -> Source:
    """Open the data that a run's flags name; raise `ValueError` if it is missing or does not fit.

    Args:
        batch: --global-batch-size, which an epoch must fill once.
    """
    if c.streaming:
        return check_sizes(open_stream(c), c, batch)
    return load_indexed(c, batch)


def load_indexed(c: TrainingData, batch: int, given: str | None = None) -> IndexedSource:
    """Open data as `load_source` does, but never as a stream.

    Args:
        given: the flag to name in errors, unless it is --data-path or --dataset-name.
    """
    source = check_sizes(open_source(c, given), c, batch, given)
    if source.num_classes is None:
        check_labels(source.labels, c.known_classes, "--num-classes says")
    return source


def check_sizes(
    source: AnySource, c: TrainingData, batch: int, given: str | None = None
) -> AnySource:
    """Return the source; raise `ValueError` for too many classes, and for too few images."""
    if (source.num_classes or 0) > c.known_classes:
        which = f"the data of {given}" if given else "the data"
        raise ValueError(f"--num-classes {c.num_classes}: {which} has {source.num_classes} classes")
    if len(source) < batch:
        raise ValueError(
            f"--global-batch-size {batch} is more than the {len(source)} images there are"
        )
    return source


def open_source(c: DataConfig, given: str | None = None) -> IndexedSource:
    """Open the data that data_path or dataset_name of `c` names, with its other data flags.

    Args:
        given: the flag to name in errors, unless it is --data-path or --dataset-name.

    Raises `ValueError` when there is no such data, or when it does not fit the flags.
    """
    given, name = given or c.name_flag, c.data_name
    if is_row_data(name, c):
        return RowSource(given, name, c)
    columns = {"--image-column": c.image_column, "--label-column": c.label_column}
    refuse_without_rows(given, name, columns)
    if name == "digits":
        return DigitsSource(c.known_size)
    if is_latent_cache(name):
        return LatentSource(name, given)
    if is_tiny_validation(name):
        return TinyValidation(given, name, c.known_size)
    return FolderSource(given, name, c.known_size)


def open_stream(c: TrainingData) -> StreamSource:
    """Open the same data as a stream; raise `ValueError` when it cannot be streamed."""
    if not is_row_data(c.data_name, c):
        refuse_without_rows(c.name_flag, c.data_name, {"--streaming": True})
    return StreamSource(c.name_flag, c.data_name, c)


def refuse_without_rows(given: str, name: str, flags: dict) -> None:
    """Raise `ValueError` if one of these flags is set, which only data in rows can obey."""
    for flag, value in flags.items():
        if value:
            raise ValueError(
                f"{flag}: {given} {name} is neither parquet files nor a data set of the hub; "
                f"leave it out"
            )


def is_row_data(name: str, c: DataConfig) -> bool:
    """Return whether `datasets` loads this data: parquet files, or a name on the hub."""
    if Path(name).is_dir():
        return any(any(Path(name).glob(pattern)) for pattern in ("*.parquet", "data/*.parquet"))
    if name == "digits" or name.startswith(("/", "~", "../")):
        return False
    # a mistyped folder is not looked for on the hub, which would take half a minute
    return not c.data_path or name in HUB_NAMES or is_hub_name(name)


def list_fingerprint(source: NamedSource) -> str:
    """Return 16 hex digits that change with the list of images, their names and their labels."""
    labels = source.labels.tolist()
    lines = (f"{source.name(i)}\t{label}\n" for i, label in enumerate(labels))
    # names are bytes to the file system, and in old archives not always UTF-8
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()[:16]


def known_list(source: Source) -> str | None:
    """Return `list_fingerprint` of the images, or of those that latents were made from.

    None of a stream, whose rows nobody lists.
    """
    if isinstance(source, StreamSource):
        return None
    if isinstance(source, LatentSource):
        return source.settings.source_fingerprint
    return list_fingerprint(cast(NamedSource, source))


def check_labels(labels: np.ndarray, num_classes: int, who: str = "its features say") -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = outside[0]
        raise ValueError(
            f"row {first} of the data: label {labels[first]}, {who} there are {num_classes} "
            f"classes; correct the labels ({len(outside)} of {len(labels)} are outside)"
        )


class FolderSource(ImageSource, Dataset):
    """Images in one folder per class (ImageFolder), classes numbered in alphabetical order."""

    def __init__(self, given: str, root: str, image_size: int):
        if not Path(root).is_dir():
            kind = "a file; give the folder" if Path(root).exists() else "no such folder"
            raise ValueError(f"{given} {root}: {kind}")
        try:
            # millions of files, walked once: by the first process, if there is a group
            classes, self.names, self.labels = told_by_first(lambda: list_classes(root))
        except ValueError as error:
            raise ValueError(
                f"{given} {root}: it must hold one folder of images for each class, or "
                f"parquet files, or a latent cache ({error})"
            ) from None
        self.root, self.image_size = root, image_size
        self.num_classes, self.class_names = len(classes), classes

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = os.path.join(self.root, self.names[index])
        return read_image(path, self.image_size, path), int(self.labels[index])


def list_classes(root: str) -> tuple[list[str], Names, np.ndarray]:
    """Return the classes, each image's path below `root`, and each image's label.

    Paths are relative, for another process may see `root` under another name.
    """
    classes, images = class_images(root)
    names = Names(path.removeprefix(root).lstrip("/") for path, _ in images)
    return classes, names, np.array([label for _, label in images])


class RowSource(ImageSource, Dataset):
    """Images in rows: a `datasets` name on the hub or local parquet files."""

    def __init__(self, given: str, name: str, c: DataConfig):
        self.rows, self.columns = load_rows(given, name, c, streaming=False)
        self.num_classes, self.image_size = self.columns.num_classes, c.known_size
        self.class_names = self.columns.class_names
        self.labels = self.columns.labels(self.rows)
        if self.num_classes:
            check_labels(self.labels, self.num_classes)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"row {index}"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[int(index)]
        image, _ = self.columns.read(row, self.image_size, self.name(index))
        return image, int(self.labels[index])


class DigitsSource(ImageSource, Dataset):
    """The 1,797 handwritten digits that scikit-learn ships: 8x8, one channel, 10 classes."""

    channels, num_classes, mirrors = 1, 10, False

    def __init__(self, image_size: int = 8):
        if image_size != 8:
            raise ValueError(f"--image-size {image_size}: the digits are 8x8 images")
        (values, self.labels), self.image_size = read_digits(), image_size
        pixels = np.round(values * (255 / 16)).astype(np.uint8)
        self.images = torch.from_numpy(pixels).reshape(-1, 1, 8, 8)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"digit {index}"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, (1797, 64) in 0..16, and their classes, (1797,).

    They are read from its file, since importing scikit-learn and what it imports (pandas, pyarrow)
    takes longer than the start of a small run; by its function where it has no such file.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or []:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1], table[:, -1].astype(int)
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)
