"""Names of runs' folders, unless --run-name gives one.

SiT-B-2-layer_sync-4-7-lambda0.3-seed0                  on ImageNet at 256 pixels
SiT-Ti-2-layer_sync-2-5-lambda0.3-digits-8px-seed0      on other data
"""

import re
from pathlib import Path

from data.fitting import MIXED_SIZE
from data.latent_manifest import is_latent_cache, read_manifest
from training.config import TrainConfig
from training.methods.methods import folder_parts

IMAGENET = re.compile(r"image-?net|ilsvrc|in-?1k", re.IGNORECASE), 1000  # its name, its classes
SAYS_NOTHING = {"train", "training", "val", "test", "data", "dataset", "images", "img", "parquet"}


def run_name(config: TrainConfig) -> str:
    """Return the name that settings `fitted` to their data give a run."""
    return "-".join([*method_parts(config), *data_parts(config), f"seed{config.global_seed}"])


def former_run_name(config: TrainConfig) -> str:
    """Return the name that an earlier version gave, without the data."""
    return "-".join([*method_parts(config), f"seed{config.global_seed}"])


def method_parts(config: TrainConfig) -> list[str]:
    return [config.model.replace("/", "-"), config.loss_type, *folder_parts(config)]


def data_parts(config: TrainConfig) -> list[str]:
    """Return data set and resolution, as far as they are not ImageNet and 256 pixels."""
    name, (pattern, classes) = source_of_data(config), IMAGENET
    is_imagenet = config.num_classes == classes and pattern.search(name)
    size = config.image_size
    return [
        *([] if is_imagenet else [data_label(name)]),
        *([] if size in (None, MIXED_SIZE) else [f"{size}px"]),
    ]


def source_of_data(config: TrainConfig) -> str:
    """Return the name of the data, or of the data that a latent cache was made of."""
    if is_latent_cache(config.data_name):
        return str(read_manifest(Path(config.data_name)).get("source"))
    return config.data_name


def data_label(name: str) -> str:
    """Return the last part of a path or name that says something, in letters of file names."""
    parts = [part for part in Path(name).parts if part.strip("/.")]
    telling = [part for part in parts if part.lower() not in SAYS_NOTHING] or parts or ["data"]
    return re.sub(r"[^\w.+-]+", "-", telling[-1])
