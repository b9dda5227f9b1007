"""Encode a data set once for REPA: patch features of every image and its mirror, on disk.

    torchrun --nproc_per_node=8 scripts/cache_features.py --data-path /path/to/imagenet/train \\
        --image-size 256 --out /path/to/features
    python train.py --loss-type repa --repa-features /path/to/features --data-path /path/to/latents

For training from cached latents, where there are no images to encode. A run that was killed
continues when the same command is given again. The format is described in data/feature_cache.py.
"""

# ruff: noqa: E402 (the command line is parsed before torch is imported)
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.data_config import DataConfig
from runtime.command import parse_command, run_errors, usage_errors
from training.methods.repa import REPAConfig


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(DataConfig):
    out: str
    """folder of the cache, a new one or one to be continued"""
    side: int | None = None
    """patches along a side: as many as the network has tokens; --image-size / 16 unless given,
    which fits SD's autoencoder and patches of 2"""
    encoder: str = REPAConfig.repa_encoder
    """the encoder, by timm's name"""
    encoder_weights: str | None = None
    """a file with its weights; they are downloaded once unless given"""
    batch_size: int = 64
    """images encoded at a time by each process"""
    num_workers: int = 4
    """image reading processes of each process"""
    min_free_disk: float = 1.0
    """GB that must remain free on the disk of --out"""


if __name__ == "__main__":
    CONFIG = parse_command(FeatureConfig)

import dataclasses
import shutil

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Subset

from data.cached_codec import weights_fingerprint
from data.feature_cache import DONE, FEATURES, MANIFEST, FeatureSettings, data_of, write_settings
from data.fitting import fitted
from data.source_protocol import NamedSource
from data.sources import open_source
from models.encoders import PatchEncoder, load_vision_transformer
from runtime.files import check_folder_writable, replacing, write_json
from runtime.flags import COMMON, check_ranges, require
from runtime.launch import join_launch
from runtime.locks import lock_output
from runtime.outcome import finished, progressed
from runtime.progress import Progress
from runtime.schema import read_json
from runtime.signals import obey_parent_only

LOCK = "cache.lock"
BEGUN = "begun.json"  # until the cache is complete: what it is being made with


class Caching:
    """The work of one process. Making it loads and checks everything and encodes nothing."""

    def __init__(self, config: FeatureConfig):
        check_config(config)
        config = fitted(config)
        check_side(config)
        self.config, self.folder = config, Path(config.out)
        join_launch()
        self.state = PartialState(cpu=not torch.cuda.is_available())
        self.source = open_source(config)
        if self.source.latents:
            raise ValueError(f"--data-path {config.data_path}: latents; give the images")
        side = config.side or config.known_size // 16
        self.refuse_complete()
        check_folder_writable(self.folder, f"--out {self.folder}")  # before weights are read
        network = load_vision_transformer(
            config.encoder, config.encoder_weights, "--encoder", "--encoder-weights"
        )
        try:
            self.encoder = PatchEncoder(network, side).to(self.state.device)
        except AttributeError as error:
            raise ValueError(f"--encoder {config.encoder}: {error}") from None
        self.settings = FeatureSettings(
            encoder=config.encoder,
            image_size=config.known_size,
            side=side,
            width=self.encoder.width,
            **data_of(cast(NamedSource, self.source)),
        )
        # held to the end: one launch at a time writes the cache
        self.lock = lock_output(f"--out {self.folder}", self.folder / LOCK, done=self.complete)
        with self.lock.released_on_error():
            if self.state.is_main_process:
                self.prepare()

    def complete(self) -> bool:
        return (self.folder / MANIFEST).exists()

    def refuse_complete(self) -> None:
        if self.complete():
            raise ValueError(f"--out {self.folder}: a complete cache is there; give another folder")

    def prepare(self) -> None:
        """Make the files; raise `ValueError` for other files there, or a disk that is too small."""
        shape = self.settings.shape
        self.refuse_complete()
        if (self.folder / FEATURES).exists() and (self.folder / DONE).exists():
            begun = begun_shape(self.folder, shape)
            if begun != shape:
                raise ValueError(
                    f"--out {self.folder}: begun as {begun} with other settings, {shape} here; "
                    f"remove it, or give another folder"
                )
            self.refuse_others()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(self.folder).free / 1e9, np.prod(shape) * 2 / 1e9
        if free - needed < self.config.min_free_disk:
            raise ValueError(
                f"--out {self.folder}: {needed:.3g} GB needed and {free:.3g} GB free, of which "
                f"--min-free-disk {self.config.min_free_disk:g} GB must remain"
            )
        write_json(self.folder / BEGUN, self.begun_with())
        # the list of what is done comes last: a folder that has it has both, and whole
        for name, kind, size in ((FEATURES, np.float16, shape), (DONE, bool, shape[:1])):
            with replacing(self.folder / name) as temporary:
                np.lib.format.open_memmap(temporary, "w+", kind, size)

    def begun_with(self) -> dict:
        """Return all that determines a feature, the weights too."""
        weights = weights_fingerprint(self.encoder.network)
        return dataclasses.asdict(self.settings) | {"encoder_weights": weights}

    def refuse_others(self) -> None:
        """Raise `ValueError` if a killed run that is continued had other settings."""
        try:
            there = read_json(self.folder / BEGUN)
        except FileNotFoundError:
            return  # of an older version, which kept none
        except ValueError as error:
            raise ValueError(
                f"--out {self.folder}: {BEGUN} is {error}; remove the folder"
            ) from None
        here = self.begun_with()
        different = [
            f"{name} {there.get(name)} there, {value} here"
            for name, value in here.items()
            if there.get(name) != value
        ]
        if different:
            raise ValueError(
                f"--out {self.folder}: begun with other settings ({'; '.join(different)}); give "
                f"those again, or another folder"
            )

    def run(self) -> None:
        """Encode this process's share of the images that are not encoded yet."""
        self.state.wait_for_everyone()  # until the files are there
        features, done = (np.load(self.folder / name, mmap_mode="r+") for name in (FEATURES, DONE))
        own = np.array_split(np.arange(len(done)), self.state.num_processes)
        todo = [i for i in own[self.state.process_index].tolist() if not done[i]]
        images_only: Any = self.source  # torch's Dataset asks for no more than its methods
        loader: DataLoader = DataLoader(
            Subset(images_only, todo),
            self.config.batch_size,
            num_workers=self.config.num_workers,
            worker_init_fn=obey_parent_only,
        )
        start, first = 0, self.state.is_main_process
        with Progress(self.folder.name, len(todo), "image", shown=first) as progress:
            for images, _ in loader:
                rows = todo[start : start + len(images)]
                images = images.to(self.state.device, non_blocking=True)
                views = torch.stack([self.encoder(images), self.encoder(images.flip(-1))], 1)
                features[rows] = views.half().cpu().numpy()  # (n, 2, T, D)
                features.flush()
                done[rows] = True
                progressed()
                start += len(images)
                progress.update(len(images))
        self.state.wait_for_everyone()
        if first:
            write_settings(self.folder, self.settings)
            for name in (DONE, BEGUN):
                (self.folder / name).unlink(missing_ok=True)
            self.lock.release()
            print(f"{self.folder}: {self.settings.images} images, {features.nbytes / 1e9:.3g} GB")


def begun_shape(folder: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the features that a killed run left; raise `ValueError` if damaged."""
    try:
        features, done = (np.load(folder / name, mmap_mode="r") for name in (FEATURES, DONE))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"--out {folder}: begun, and damaged since ({error}); remove it") from None
    if done.shape != shape[:1] or done.dtype != bool:
        return (*done.shape, *features.shape[1:])
    return features.shape


def check_config(c: FeatureConfig) -> None:
    c.check_location()
    check_ranges(c, COMMON)
    require(c, "side", c.side is None or c.side >= 1, "at least 1")


def check_side(c: FeatureConfig) -> None:
    require(c, "image_size", c.side is not None or c.known_size >= 16, "at least 16 without --side")


def main(config: FeatureConfig) -> None:
    with usage_errors():
        caching = Caching(config)
    with run_errors(f"What is in {config.out} is kept: the same command continues"):
        caching.run()
    finished()


if __name__ == "__main__":
    main(CONFIG)
