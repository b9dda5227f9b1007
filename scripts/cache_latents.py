"""Encode a data set once: the autoencoder's posterior of every image and its mirror, on disk.

    torchrun --nproc_per_node=8 scripts/cache_latents.py --data-path /path/to/imagenet/train \\
        --vae ema --image-size 256 --out /path/to/latents
    python scripts/cache_latents.py ...                          # one process, CPU or GPU
    python scripts/cache_latents.py --out /path/to/latents --verify   # recompute the checksums

The first process lists the images and tells the others. Shards of consecutive images are dealt out
to the processes, which never wait for each other again; the first one writes the manifest when all
shards are there. A run that was killed continues when the same command is given again, on any
number of processes, and the files are the same. The format is described in data/latents.py.
"""

# ruff: noqa: E402 (the command line is parsed before torch is imported)
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.data_config import DataConfig
from runtime.command import RunError, parse_command, run_errors, usage_errors
from runtime.launch import is_first_process, rank, world_size
from runtime.outcome import finished
from runtime.progress import Progress, over


@dataclass(frozen=True, kw_only=True)
class CacheConfig(DataConfig):
    out: str
    """folder of the cache, a new one or one to be continued"""
    verify: bool = False
    """recompute the checksums of the complete cache in --out, and nothing else"""
    skip_unreadable: bool = False
    """leave out images that cannot be read, and list them in the manifest, instead of failing"""

    # --- into what
    vae: str = "ema"
    """ema or mse (Stability's fine-tuned SD autoencoders), a hub id, or a folder"""
    dtype: Literal["float16", "float32"] = "float16"
    """type of the stored means and deviations. With float16 the convolutions use TF32 on
    hardware that has it, as training does by default; with float32 they do not"""
    shard_size: int = 4096
    """images per file"""

    # --- how
    batch_size: int = 64
    """images encoded at a time by each process"""
    num_workers: int = 4
    """image reading processes of each process"""
    min_free_disk: float = 1.0
    """GB that must remain free on the disk of --out"""


if __name__ == "__main__":
    CONFIG = parse_command(CacheConfig)

import time

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.cached_codec import weights_fingerprint
from data.fitting import fitted
from data.latent_manifest import CacheSettings
from data.latent_writer import CacheWriter, ShardWriter
from data.latents import LatentSource, encode_moments
from data.readable_images import ReadableImages, cut, gather
from data.source_protocol import NamedSource
from data.sources import list_fingerprint, open_source
from models import load_codec
from models.codecs import PIXELS, VAECodec, latent_size
from runtime.flags import COMMON, check_ranges
from runtime.processes import choose_device, joined_for_a_moment
from runtime.signals import obey_parent_only

POLL_SECONDS = 0.5


class Caching:
    """The work of one process. Making it loads and checks everything and encodes nothing."""

    def __init__(self, config: CacheConfig, rank: int, world_size: int):
        check_cache_config(config)
        config = fitted(config)
        self.config, self.rank, self.world_size = config, rank, world_size
        self.device = set_up_device(config)
        with joined_for_a_moment():  # the first process lists the images, and tells the others
            self.source = image_source(config)
        self.names = [self.source.name(i) for i in range(len(self.source))]
        codec = load_codec(config.vae, self.device)
        assert isinstance(codec, VAECodec)  # pixels were refused above
        self.codec = codec
        settings = CacheSettings(
            codec=self.codec.name,
            codec_fingerprint=weights_fingerprint(self.codec.vae),
            scaling_factor=self.codec.scale,
            image_size=config.known_size,
            latent_channels=self.codec.channels,
            latent_size=latent_size(config.known_size, self.codec),
            dtype=config.dtype,
            num_classes=self.source.num_classes or int(self.source.labels.max()) + 1,
            images=len(self.source),
            source=full_name(config.data_name),
            source_fingerprint=list_fingerprint(self.source),
            shard_size=config.shard_size,
        )
        self.cache = CacheWriter(config.out, settings)
        self.cache.check_folder()
        self.lock = self.cache.lock()  # held to the end: one launch at a time writes the cache
        with self.lock.released_on_error():
            self.cache.check_folder()
            if rank == 0:
                self.cache.check_disk(config.min_free_disk)
            self.cache.prepare()
        self.looked = 0.0  # when the progress was last shown

    def run(self) -> None:
        """Encode this process's shards; the first process then waits for all of them."""
        cache = self.cache
        name, total, there = cache.root.name, cache.settings.images, cache.images_written()
        with Progress(name, total, "image", initial=there, shown=self.rank == 0) as progress:
            self.encode(progress)
            while self.rank == 0 and not cache.complete():
                time.sleep(POLL_SECONDS)
                self.show(progress)

    def encode(self, progress: Progress) -> None:
        """Encode this process's shards, those that are not there."""
        cache = self.cache
        own = range(self.rank, cache.shards, self.world_size)
        shards = [k for k in own if not cache.finished(k)]
        slices = {k: cut(cache.images_of(k), self.config.batch_size) for k in shards}
        batches = iter(self.loader([batch for k in shards for batch in slices[k]]))
        for k in shards:
            with ShardWriter(cache, k) as shard:
                for _ in slices[k]:
                    images, labels, errors = next(batches)
                    unreadable = [
                        {"index": i, "image": self.names[i], "error": error} for i, error in errors
                    ]
                    shard.add(self.moments(images), labels, unreadable)
                    self.show(progress)

    def show(self, progress: Progress) -> None:
        """Show the progress of all processes together, on the first one."""
        if self.rank == 0 and time.time() - self.looked >= POLL_SECONDS:
            self.looked = time.time()
            progress.reach(max(progress.done, self.cache.images_written()))

    def loader(self, batches: list[range]) -> DataLoader:
        return DataLoader(
            ReadableImages(self.source),
            batch_sampler=[list(batch) for batch in batches],
            collate_fn=gather,
            num_workers=self.config.num_workers,
            worker_init_fn=obey_parent_only,
            pin_memory=self.device.type == "cuda",
        )

    def moments(self, images: torch.Tensor) -> np.ndarray:
        """Encode uint8 (N, 3, H, W) to (N, 2, 2, C, h, w) in the cache's dtype, on the CPU."""
        settings = self.cache.settings
        if not len(images):
            return np.empty((0, *settings.row_shape), settings.dtype)
        moments = encode_moments(self.codec, images.to(self.device, non_blocking=True))
        moments = moments.to(getattr(torch, settings.dtype)).cpu()
        if not moments.isfinite().all():
            raise RunError(
                f"--vae {self.config.vae}: its latents are not finite in {settings.dtype}; try "
                f"--dtype float32 with another --out, or another autoencoder"
            )
        return moments.numpy()

    def finish(self) -> None:
        """Write the manifest on the first process, or list the unreadable images and fail."""
        cache, unreadable = self.cache, self.cache.unreadable()
        new = [entry for entry in unreadable if "error" in entry]  # others the manifest lists
        for entry in new:
            path = Path(cache.settings.source, entry["image"])
            print(f"unreadable: {path}: {entry['error']}", file=sys.stderr)
        nothing_left = len(unreadable) == cache.settings.images
        if new and (nothing_left or not self.config.skip_unreadable):
            cache.reject()
            raise RunError(
                f"{len(new)} of {cache.settings.images} images "
                f"cannot be read, listed above: put good files in their places, or add "
                f"--skip-unreadable to leave them out, and give the command again"
            )
        manifest = cache.finish()
        self.lock.release()
        left_out = f", {len(unreadable)} unreadable left out" if unreadable else ""
        print(f"{cache.root}: {manifest['count']} images in {cache.shards} shards{left_out}")


def image_source(c: CacheConfig) -> NamedSource:
    """Open the images that the flags name, as training reads them."""
    source = open_source(c)
    if source.channels != 3 or source.latents:
        raise ValueError(f"{c.data_name}: an autoencoder needs RGB images, this is something else")
    return cast(NamedSource, source)


def full_name(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).is_dir() else source


def set_up_device(c: CacheConfig) -> torch.device:
    """Set up this process's device so that latents are the same bytes on each; return it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = c.dtype == "float16"
    torch.backends.cudnn.deterministic = True
    torch.set_num_threads(1)  # several add up in another order; for more cores start more processes
    return choose_device()


def check_cache_config(c: CacheConfig) -> None:
    c.check_location()
    if c.vae == PIXELS:
        raise ValueError(f"--vae {PIXELS}: pixels need no cache; train.py reads the images")
    check_ranges(c, COMMON)


def verify(root: str) -> None:
    source = LatentSource(root)
    for shard in over(source.shards, f"verifying {root}", "shard"):
        source.check_shard(shard, checksums=True)
    print(f"{root}: {len(source)} images in {len(source.shards)} shards, all checksums hold")


def main(config: CacheConfig) -> None:
    with usage_errors():
        if config.verify:
            if is_first_process():
                verify(config.out)
            return finished()
        caching = Caching(config, rank(), world_size())
    safe = f"Nothing that is finished in {config.out} is lost: the same command continues"
    with run_errors(safe):
        caching.run()
    if is_first_process():
        with run_errors("All other shards are kept"):
            caching.finish()
    finished()


if __name__ == "__main__":
    main(CONFIG)
