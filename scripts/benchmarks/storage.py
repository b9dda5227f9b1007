"""Benchmark of the disk: writing and reading checkpoints, reading latents in shuffled order."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.latent_manifest import CacheSettings
from data.latent_writer import CacheWriter, ShardWriter
from data.latents import LatentSource
from data.loader import make_step_loader
from data.order import StepBatches
from models import find_model
from models.checkpoint_file import read_checkpoint
from scripts.benchmarks.timing import seconds
from training.checkpoint import save_checkpoint

CHECKPOINT_COLUMNS = dict(model="", gb=".2f", write_s=".1f", read_s=".1f")
LATENT_COLUMNS = dict(workers="d", batch="d", latents_per_second=",.0f", memory_growth_mb=".1f")
LATENTS, BATCH = 20_000, 256  # 0.66 GB


def checkpoints(c) -> list[dict]:
    """Measure, for each model, complete checkpoints: flushed to the disk, and read again."""
    return [checkpoint(name) for name, _ in tqdm(c.sizes(), desc="checkpoints", unit="model")]


def checkpoint(name: str) -> dict:
    weights = find_model(name)(input_size=32).state_dict()
    moments = {k: {"exp_avg": v.clone(), "exp_avg_sq": v.clone()} for k, v in weights.items()}
    ema = {key: value.clone() for key, value in weights.items()}
    state = {"model": weights, "ema": ema, "opt": {"state": moments}, "step": 1}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0000001.pt"
        write, read = seconds(lambda: save_checkpoint(path, state)), lambda: read_checkpoint(path)
        return dict(model=name, gb=path.stat().st_size / 1e9, write_s=write, read_s=seconds(read))


def latents(c) -> list[dict]:
    """Measure reading a cache of 256 x 256 images' latents, held in the system's page cache."""
    with tempfile.TemporaryDirectory() as folder:
        write_cache(Path(folder) / "cache")
        source = LatentSource(Path(folder) / "cache")
        return [read(source, workers) for workers in (0, 1, 2)]


def write_cache(root: Path) -> None:
    settings = CacheSettings(
        codec="random", codec_fingerprint="", scaling_factor=0.18215, image_size=256,
        latent_channels=4, latent_size=32, dtype="float16", num_classes=1000, images=LATENTS,
        source="random", source_fingerprint="", shard_size=4096,
    )  # fmt: skip
    cache, generator = CacheWriter(root, settings), np.random.default_rng(0)
    cache.prepare()
    for k in range(cache.shards):
        with ShardWriter(cache, k) as shard:
            count = len(cache.images_of(k))
            values = generator.standard_normal((count, *settings.row_shape), np.float32)
            labels = generator.integers(1000, size=count).tolist()
            shard.add(values.astype(np.float16), labels, [])
        cache.finished(k)
    cache.finish()


def read(source: LatentSource, workers: int) -> dict:
    """Read two epochs in shuffled order and time the second."""
    epoch = LATENTS // BATCH
    order = StepBatches(LATENTS, BATCH, 0, 0, 2 * epoch, range(BATCH))
    touched = torch.zeros(())
    for i, packed in enumerate(make_step_loader(source, order, workers)):
        if i == epoch:
            start, before = time.perf_counter(), own_memory()
        touched += packed["images"][0, 0, 0, 0, 0, 0]  # read it
    taken, growth = time.perf_counter() - start, own_memory() - before
    speed = (epoch - 1) * BATCH / taken  # the clock started after that epoch's first batch
    return dict(
        workers=workers, batch=BATCH, latents_per_second=speed, memory_growth_mb=growth / 1e6
    )


def own_memory() -> int:
    """Return the bytes of this process's own memory, without the mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
