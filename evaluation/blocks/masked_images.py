"""Images with a mask that names the class of each pixel: VOC2012's folders, or rows of parquet.

Images and masks are squashed to a square, masks without interpolation, as the paper's code does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.data_config import DataConfig
from data.decoding import opened, to_rgb, to_tensor
from data.source_protocol import ImageSource
from runtime.command import RunError

IGNORED = 255  # in a mask: a pixel of no class, as on VOC's outlines
VOC = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
SPLITS = {"train": ("train",), "val": ("val", "validation", "test")}
MASK_NAMES = ("mask", "masks", "label", "labels", "annotation", "segmentation")

Bytes = Path | bytes


@dataclass(frozen=True)
class Pair:
    """An image and its mask, as files or their content, with a name for messages."""

    name: str
    image: Callable[[], Bytes]
    mask: Callable[[], Bytes]


class MaskedImages(ImageSource, Dataset):
    """A source of the images of some pairs; `masks` reads the masks. It has no labels."""

    num_classes, mirrors = None, False

    def __init__(self, pairs: Sequence[Pair], image_size: int, classes: int):
        self.pairs, self.image_size, self.classes = pairs, image_size, classes
        self.labels = np.zeros(len(pairs), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index].name

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pair = self.pairs[index]
        return read_squashed(pair.image(), self.image_size, pair.name), 0

    def masks(self, numbers: Sequence[int], items: Tensor) -> Tensor:
        """Return the masks of these images, int64 (N, H, W); `items` is not looked at."""
        return torch.stack([self.mask(int(number)) for number in numbers])

    def mask(self, index: int) -> Tensor:
        """Return a mask (H, W); `RunError` for one of another size, or of unknown classes."""
        pair = self.pairs[index]
        with opened(pair.image(), pair.name) as image:
            size = image.size
        return read_mask(pair.mask(), self.image_size, size, self.classes, pair.name)


def read_squashed(source: Bytes, size: int, name: str) -> Tensor:
    """Decode an image as uint8 (3, size, size), its sides resized by different factors."""
    with opened(source, name) as image:
        return to_tensor(to_rgb(image).resize((size, size), Image.Resampling.BILINEAR))


def read_mask(
    source: Bytes, size: int, image_size: tuple[int, int], classes: int, name: str
) -> Tensor:
    """Decode a mask as int64 (size, size), each pixel the nearest one's class or `IGNORED`.

    Args:
        image_size: (width, height) of its image.
        classes: how many there are; others but `IGNORED` are refused.
    """
    with opened(source, f"the mask of {name}") as mask:
        if mask.mode not in ("P", "L", "1"):
            raise RunError(
                f"the mask of {name} has colours (mode {mask.mode}): its pixels must be the "
                f"numbers of classes, in one channel of 8 bits"
            )
        if mask.size != image_size:
            raise RunError(
                f"the mask of {name} has {mask.width}x{mask.height} pixels, its image "
                f"{image_size[0]}x{image_size[1]}"
            )
        numbers = np.array(mask.resize((size, size), Image.Resampling.NEAREST)).astype(np.int64)
    unknown = numbers[(numbers >= classes) & (numbers != IGNORED)]
    if unknown.size:
        raise RunError(
            f"the mask of {name} has class {unknown[0]}, there are {classes}, 0 to {classes - 1} "
            f"(and {IGNORED}, which is ignored): give --mask-classes"
        )
    return torch.from_numpy(numbers)


def open_masked(where: str, image_size: int, classes: int) -> dict[str, MaskedImages]:
    """Open the splits "train" and "val" of a folder as VOC2012's, or of rows that `datasets` reads.

    Raises `ValueError` when there are no such splits, or no masks in them.
    """
    root = voc_root(Path(where))
    pairs = voc_pairs(root) if root else row_pairs(where, image_size)
    for split, split_pairs in pairs.items():
        if len(split_pairs) < 2:
            raise ValueError(f"--masks {where}: {len(split_pairs)} images in {split}, 2 are needed")
    return {
        split: MaskedImages(split_pairs, image_size, classes)
        for split, split_pairs in pairs.items()
    }


def voc_root(path: Path) -> Path | None:
    """Return the folder with VOC's three folders, at `path` or in VOCdevkit/VOC2012 below it."""
    for root in (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012"):
        if all((root / name).is_dir() for name in VOC):
            return root
    return None


def voc_pairs(root: Path) -> dict[str, list[Pair]]:
    images, masks, lists = (root / name for name in VOC)
    pairs: dict[str, list[Pair]] = {}
    for split in SPLITS:
        path = lists / f"{split}.txt"
        if not path.is_file():
            raise ValueError(f"--masks {root}: no {path.relative_to(root)} in it")
        pairs[split] = []
        for name in path.read_text().split():
            image, mask = images / f"{name}.jpg", masks / f"{name}.png"
            for file in (image, mask):
                if not file.is_file():
                    raise ValueError(f"--masks {root}: {path.name} names {file}, which is missing")
            pairs[split].append(Pair(str(image), partial(same, image), partial(same, mask)))
    return pairs


def same(path: Path) -> Path:
    return path


def row_pairs(where: str, image_size: int) -> dict[str, list[Pair]]:
    """Return the pairs of a data set of rows with two columns of images: the image and its mask."""
    import datasets

    if Path(where).exists() and not any(
        any(Path(where).glob(pattern)) for pattern in ("*.parquet", "data/*.parquet")
    ):
        raise ValueError(
            f"--masks {where}: neither VOC2012's folders ({', '.join(VOC)}) nor parquet files"
        )
    try:
        splits = datasets.load_dataset(where, cache_dir=DataConfig().cache_dir)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--masks {where}: cannot be loaded ({reason})") from None
    pairs = {}
    for split, names in SPLITS.items():
        name = next((name for name in names if name in splits), None)
        if name is None:
            raise ValueError(
                f"--masks {where}: no split {' or '.join(names)}, only {', '.join(splits)}"
            )
        pairs[split] = pairs_of(splits[name], where, name)
    return pairs


def pairs_of(rows, where: str, split: str) -> list[Pair]:
    import datasets

    columns = [key for key, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    masks = [name for name in columns if name.lower() in MASK_NAMES]
    if len(columns) != 2 or len(masks) != 1:
        raise ValueError(
            f"--masks {where}: it needs two columns of images, one of them called "
            f"{', '.join(MASK_NAMES)}; it has {', '.join(columns) or 'none'}"
        )
    image = next(name for name in columns if name != masks[0])
    for name in columns:
        rows = rows.cast_column(name, datasets.Image(decode=False))

    def content(index: int, column: str) -> Bytes:
        cell = rows[index][column]
        return cell["bytes"] or Path(cell["path"])

    return [
        Pair(f"row {i} of {split}", partial(content, i, image), partial(content, i, masks[0]))
        for i in range(len(rows))
    ]
