"""Settings that come from the data: image size, classes and codec, and whether those given fit.

Only headers are read: of the first images, of a cache's manifest.
"""

import contextlib
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from data.data_config import DataConfig, TrainingData
from data.decoding import read_size
from data.folders import class_names, walk_images
from data.latent_manifest import CacheSettings, is_latent_cache, read_manifest
from data.rows import load_rows
from data.sources import is_row_data
from data.tiny_imagenet import is_tiny_validation
from runtime.command import RunError, warn
from runtime.schema import from_dict

FIRST = 100  # images whose size is looked at
MIXED_SIZE = 256  # of data whose images have several sizes, as ImageNet's
Config = TypeVar("Config", bound=DataConfig)


@dataclass(frozen=True)
class Seen:
    """Properties that data says of itself; None where it does not."""

    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of the first images that can be read"""
    size: int | None = None
    """side of the images, where it cannot be chosen"""
    num_classes: int | None = None
    codec: str = "ema"
    """the codec to use unless one is given"""


def fitted(c: Config, fewer_classes: bool = False) -> Config:
    """Return settings with image size, classes and codec of the data where they are not given.

    Args:
        fewer_classes: whether data may have fewer classes than --num-classes says.

    Raises `ValueError` for a size or a number of classes that the data does not have. Data that is
    missing or damaged is left to those who open it.
    """
    seen = look(c)
    size = c.image_size or seen.size or common_side(seen.sizes)
    changes: dict = {"image_size": size}
    if not c.resize:
        check_size(size, seen, given=c.image_size is not None)
    if isinstance(c, TrainingData):
        changes["vae"] = c.vae or seen.codec
        changes["num_classes"] = c.num_classes or seen.num_classes
        if c.num_classes and seen.num_classes and not fewer_classes:
            check_classes(c.num_classes, seen.num_classes)
    return dataclasses.replace(c, **changes)


def common_side(sizes: tuple[tuple[int, int], ...]) -> int:
    """Return the shorter side of images of one size, 256 for images of several."""
    return min(sizes[0]) if len(set(sizes)) == 1 else MIXED_SIZE


def check_size(size: int, seen: Seen, given: bool) -> None:
    if seen.sizes and size > max(map(min, seen.sizes)):
        width, height = max(seen.sizes, key=min)
        which = f"{size}" if given else f"is {size} for images of several sizes"
        remedy = "leave it out" if given and len(set(seen.sizes)) == 1 else "give a smaller one"
        raise ValueError(
            f"--image-size {which}: the first {len(seen.sizes)} images are smaller, at most "
            f"{width}x{height}; {remedy}, or add --resize to enlarge them"
        )


def check_classes(given: int, there: int) -> None:
    if given > there:
        raise ValueError(f"--num-classes {given}: the data has {there}; leave it out")


def look(c: DataConfig) -> Seen:
    """Look at the data that the flags name."""
    name = c.data_name
    if is_row_data(name, c):
        return look_at_rows(c)
    if name == "digits":
        return Seen(size=8, num_classes=10, codec="none")
    if is_latent_cache(name):
        manifest = from_dict(CacheSettings, read_manifest(Path(name)))
        return Seen(
            size=manifest.image_size, num_classes=manifest.num_classes, codec=manifest.codec
        )
    if is_tiny_validation(name) or not Path(name).is_dir():
        return Seen()
    classes = class_names(name)
    paths = (path for folder in classes for path in images_of(Path(name, folder)))
    sizes = readable_sizes(paths)
    return Seen(sizes=sizes, num_classes=len(classes) or None)


def images_of(folder: Path) -> Iterable[str]:
    for below, names in walk_images(str(folder)):
        yield from (f"{below}/{name}" for name in names)


def look_at_rows(c: DataConfig) -> Seen:
    streaming = isinstance(c, TrainingData) and c.streaming
    rows, columns = load_rows(c.name_flag, c.data_name, c, streaming)
    few = rows.take(FIRST) if streaming else rows.select(range(min(FIRST, len(rows))))
    images = (row[columns.image] for row in few)
    files = (image["bytes"] or image["path"] for image in images if isinstance(image, dict))
    classes = columns.num_classes
    if classes is None and isinstance(c, TrainingData) and c.num_classes is None:
        if streaming or not len(rows):
            raise ValueError(f"--num-classes: {c.data_name} does not say how many; give it")
        labels = columns.labels(rows)
        classes = int(labels.max()) + 1
        if labels.min() > 0:
            warn(
                f"the labels in {columns.label} begin at {labels.min()} and classes at 0: there is "
                f"no image of class 0, of which --num-classes {classes} makes one"
            )
    return Seen(sizes=readable_sizes(files), num_classes=classes)


def readable_sizes(files: Iterable) -> tuple[tuple[int, int], ...]:
    """Return the sizes of the first images; those that cannot be read are passed over."""
    sizes = []
    for file in islice(files, FIRST):
        with contextlib.suppress(RunError, OSError):
            sizes.append(read_size(file))
    return tuple(sizes)
