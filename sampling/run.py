"""A sampling run: loads and checks everything, then makes this process's share of the images."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from runtime.command import warn
from runtime.files import check_writable
from runtime.png import save_grid
from runtime.progress import Progress
from sampling.images import ImageMaker
from sampling.labels import balanced_labels
from sampling.parts import PREVIEW_KIND, SampleParts
from sampling.recipe import make_recipe, output_path
from sampling.sample_config import ODE, SDE, check_sample_config

PREVIEW = 64  # images in the picture beside the .npz
POLL_SECONDS = 0.5
SECONDS_WITHOUT_A_PART = 600.0  # after which the first process makes those of others


class Sampling:
    """A sampling run of one process. Making one loads and checks everything and samples nothing.

    Raises `ValueError` for settings that contradict each other, the checkpoint or the codec.
    """

    def __init__(self, config: ODE | SDE):
        check_sample_config(config)
        if config.out and not Path(config.out).exists():
            check_writable(config.out)  # before a checkpoint and a codec are read for nothing
        self.config, self.maker = config, ImageMaker(config, config.per_proc_batch_size)
        self.recipe = make_recipe(config, self.maker)
        self.parts = SampleParts(
            out=output_path(config, self.recipe),
            recipe=self.recipe,
            count=config.num_fid_samples,
            batch=config.per_proc_batch_size,
            image_shape=self.maker.image_shape,
            save_png=config.save_png,
        )

    def batch(self, k: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Sample batch k; return images and, per image, label, function evaluations, likelihood."""
        c, size = self.config, self.config.per_proc_batch_size
        numbers, labels = range(k * size, (k + 1) * size), None
        if c.label_sampling == "balanced":
            labels = balanced_labels(c.global_seed, numbers, self.recipe["num_classes"])
        likelihood = isinstance(c, ODE) and c.likelihood
        return self.maker.images(c.global_seed, numbers, labels, likelihood)

    def run(self, rank: int, world_size: int) -> None:
        """Sample this process's batches; the first process then waits for all and assembles."""
        parts = self.parts
        if rank > 0:
            self.sample_batches(rank, world_size, lambda: None)
            return
        there, name = parts.images_finished(), parts.out.stem
        with Progress(name, parts.count, "image", initial=there) as progress:

            def show(evaluations: int) -> None:  # a batch may take minutes
                progress.update(0, f"{evaluations} evaluations")

            self.maker.network.on_evaluation = show
            self.sample_batches(rank, world_size, lambda: progress.reach(parts.images_finished()))
            self.wait_for_all(progress, alone=world_size == 1)
            save_grid(parts.head(PREVIEW), parts.preview, kind=PREVIEW_KIND)
            progress.say(f"picture {parts.preview}")
            recipe = parts.assemble()
            progress.say(f"{parts.out}: {parts.count} images, NFE {recipe['nfe']['mean']:g}")

    def wait_for_all(self, progress: Progress, alone: bool) -> None:
        """Wait until all parts are there, and make those that nobody else seems to make.

        A part may have been removed, or its process be gone. It is the same whoever makes it.
        """
        parts, heard = self.parts, time.monotonic()
        while progress.done < parts.count:
            time.sleep(POLL_SECONDS)
            before = progress.done
            progress.reach(parts.images_finished())
            if progress.done != before:
                heard = time.monotonic()
            elif alone or time.monotonic() - heard > SECONDS_WITHOUT_A_PART:
                missing = [k for k in range(parts.batches) if not parts.path(k).exists()]
                for k in missing[:1]:
                    warn(f"{parts.path(k)} is not there: sampled again")
                    self.sample_batch(k)
                progress.reach(parts.images_finished())  # the next one at once

    def sample_batches(self, rank: int, world_size: int, written: Callable[[], None]) -> None:
        """Sample the batches of a process that are missing; call `written()` after each."""
        parts = self.parts
        for k in range(rank, parts.batches, world_size):
            if parts.finished(k):
                parts.write_pictures(k)
                continue
            self.sample_batch(k)
            written()

    def sample_batch(self, k: int) -> None:
        """Sample the k-th batch and write its part."""
        images, columns = self.batch(k)
        self.parts.write_pictures(k, images)
        self.parts.write(k, images, **columns)

    def finish_pictures(self, rank: int, world_size: int) -> None:
        """Write this process's share of the pictures of an already finished set."""
        if self.parts.pictures:
            self.parts.pictures.prepare()
            for k in range(rank, self.parts.batches, world_size):
                self.parts.write_pictures(k)
