"""Data sets that a reference can be made of, as sets of images."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.data_config import DataConfig
from data.folders import class_names, refuse_splits
from evaluation.image_sets import ARRAY, ImageSet, open_folder, open_images
from runtime.command import RunError

if TYPE_CHECKING:
    from data.sources import RowSource


def open_any_images(data: str, image_size: int | None, array: str = ARRAY) -> ImageSet:
    """Open the images of a folder, a parquet file, an .npz, an .npy or a data set on the hub.

    Args:
        image_size: side to crop them to; with None they stay as they are and must have one size.

    Raises `ValueError` when there are no images, when they have other sizes or are of several
    splits, or for an array of what has no arrays.
    """
    path = Path(data)
    if array != ARRAY and (not path.is_file() or path.suffix == ".parquet"):
        raise ValueError(f"--array {array}: {data} is no .npz, whose arrays have names")
    if path.is_dir() and not any([*path.glob("*.parquet"), *path.glob("data/*.parquet")]):
        try:
            refuse_splits(data, class_names(data))
        except ValueError as error:
            raise ValueError(f"{data}: {error}") from None
        return open_folder(path, image_size)
    if path.is_file() and path.suffix != ".parquet":
        images = open_images(path, array)
        if image_size and images.shape[:2] != (image_size, image_size):
            raise ValueError(
                f"--image-size {image_size}: {data} holds images of "
                f"{images.shape[0]}x{images.shape[1]}, which are not resized"
            )
        return images
    return open_data_set(data, image_size)


def open_data_set(data: str, image_size: int | None) -> ImageSet:
    """Open a data set by its name on the hub, or local parquet files; split "train"."""
    from data.sources import RowSource  # imports torch

    if image_size is None:
        raise ValueError(f"{data} is no file or folder of images; a data set needs --image-size")
    try:
        source = RowSource("data", data, DataConfig(image_size=image_size))
    except ValueError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{data}: cannot be loaded as a data set ({reason})") from None
    return ImageSet(data, DataSetImages(source), source.labels)


class DataSetImages:
    """The images of a data set as one array, decoded when sliced."""

    dtype = np.dtype(np.uint8)

    def __init__(self, source: "RowSource"):
        self.source = source
        self.shape = len(source), source.image_size, source.image_size, source.channels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: slice) -> np.ndarray:
        numbers = range(*rows.indices(len(self)))
        try:
            images = [self.source[number][0].permute(1, 2, 0).numpy() for number in numbers]
        except RunError as error:
            raise ValueError(error) from None
        return np.stack(images)
