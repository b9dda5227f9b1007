"""Images and labels, the order in which training sees them, and how they reach a process.

A source is a map-style dataset of (uint8 image (C, H, W), int label) with `channels`,
`num_classes` and `mirrors`: whether a mirrored image still shows its class. Nothing in it is
random: flips, noise and the like are drawn by the training step.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.config import TrainConfig
from training.preemption import ignore_signals
from training.randomness import epoch_order

HUB_NAMES = {"imagenet-1k": "ILSVRC/imagenet-1k"}  # the original's spelling, and where it is


def load_source(config: TrainConfig) -> Dataset:
    """The data that the flags name; `ValueError` when it is missing or does not fit them."""
    if config.data_path:
        source = FolderSource(config.data_path, config.image_size)
    elif config.dataset_name == "digits":
        source = DigitsSource(config.image_size)
    else:
        name = config.dataset_name or "imagenet-1k"
        source = HubSource(name, config.image_size, config.cache_dir)
    if source.num_classes > config.num_classes:
        raise ValueError(
            f"--num-classes {config.num_classes}: the data has {source.num_classes} classes"
        )
    if len(source) < config.global_batch_size:
        raise ValueError(
            f"--global-batch-size {config.global_batch_size} is more than the "
            f"{len(source)} images there are"
        )
    return source


class FolderSource(Dataset):
    """An ImageFolder: one folder of images per class, classes numbered in alphabetical order."""

    channels = 3
    mirrors = True

    def __init__(self, root: str, image_size: int):
        from torchvision.datasets import ImageFolder

        if not Path(root).is_dir():
            raise ValueError(f"--data-path {root}: no such folder")
        try:
            folder = ImageFolder(root)
        except FileNotFoundError as error:
            raise ValueError(
                f"--data-path {root}: it must hold one folder of images for each class ({error})"
            ) from None
        self.samples, self.num_classes = folder.samples, len(folder.classes)
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        try:
            with Image.open(path) as image:
                return to_tensor(center_crop(image.convert("RGB"), self.image_size)), label
        except (OSError, UnidentifiedImageError) as error:
            raise RuntimeError(
                f"{path}: not a readable image ({error}); mend or remove it"
            ) from error


class HubSource(Dataset):
    """A `datasets` name on the hub, or a local parquet file or folder of these; split "train"."""

    channels = 3
    mirrors = True

    def __init__(self, name: str, image_size: int, cache_dir: str | None = None):
        import datasets

        source = {"path": HUB_NAMES.get(name, name)}
        if name.endswith(".parquet"):
            source = {"path": "parquet", "data_files": name}
        try:
            self.rows = datasets.load_dataset(**source, split="train", cache_dir=cache_dir)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--dataset-name {name}: cannot be loaded ({str(error).splitlines()[0]}); "
                f"or give --data-path FOLDER with one folder of images for each class"
            ) from error
        columns = {type(feature): key for key, feature in self.rows.features.items()}
        if not {datasets.Image, datasets.ClassLabel} <= columns.keys():
            raise ValueError(
                f"--dataset-name {name}: needs an image and a label column, "
                f"it has {dict(self.rows.features)}"
            )
        self.image, self.label = columns[datasets.Image], columns[datasets.ClassLabel]
        self.num_classes = self.rows.features[self.label].num_classes
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            row = self.rows[int(index)]
            image = center_crop(row[self.image].convert("RGB"), self.image_size)
        except (OSError, UnidentifiedImageError) as error:
            raise RuntimeError(f"row {index}: not a readable image ({error})") from error
        return to_tensor(image), row[self.label]


class DigitsSource(Dataset):
    """The 1,797 handwritten digits that scikit-learn ships: 8x8, one channel, 10 classes."""

    channels = 1
    num_classes = 10
    mirrors = False

    def __init__(self, image_size: int = 8):
        from sklearn.datasets import load_digits

        if image_size != 8:
            raise ValueError(f"--image-size {image_size}: the digits are 8x8 images")
        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # they come as 0..16
        self.images = torch.from_numpy(pixels).unsqueeze(1)  # (1797, 1, 8, 8)
        self.labels = digits.target.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's preprocessing: halve with a box filter while at least twice too large, then bicubic
    to the short side, then the centre square."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class StepBatches:
    """For each step from `first_step`, the dataset indices of one process's share of the batch.

    An epoch visits the data in an order drawn from (seed, epoch) and drops what does not fill a
    batch. Process r of W takes positions r B/W ... (r+1) B/W - 1 of the global batch B.
    """

    def __init__(
        self, length: int, batch: int, seed: int, first_step: int, last_step: int, shard: range
    ):
        self.length, self.batch, self.seed = length, batch, seed
        self.steps, self.shard = range(first_step, last_step), shard

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = None, None
        for step in self.steps:
            this_epoch, k = divmod(step, self.length // self.batch)
            if this_epoch != epoch:
                epoch, order = this_epoch, epoch_order(self.seed, this_epoch, self.length)
            start = k * self.batch
            yield order[start + self.shard.start : start + self.shard.stop].tolist()


def batch_shard(global_batch_size: int, rank: int, world_size: int, parts: int = 1) -> range:
    """Positions of a process in the global batch, which it sees in `parts` equal parts.

    `ValueError` when the batch cannot be shared evenly.
    """
    local, rest = divmod(global_batch_size, world_size)
    if rest or local % parts:
        shares = f"{world_size} processes" + (f" x {parts} accumulation steps" * (parts > 1))
        raise ValueError(
            f"--global-batch-size {global_batch_size} is not divisible by the {shares}; "
            f"choose a multiple of {world_size * parts}"
        )
    return range(rank * local, (rank + 1) * local)


def as_it_is(batch):
    return batch


def make_loader(source: Dataset, batches: StepBatches, num_workers: int) -> DataLoader:
    """Batches of one process, in order; a source with `__getitems__` gives them whole."""
    whole = hasattr(source, "__getitems__")
    return DataLoader(
        source,
        batch_sampler=batches,
        collate_fn=as_it_is if whole else None,
        worker_init_fn=ignore_signals,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
