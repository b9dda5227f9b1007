"""A sampling run: everything loaded and checked, then this process's share of the images."""

import time

import numpy as np
from tqdm import tqdm

from runtime.png import save_grid
from sampling.images import ImageMaker
from sampling.labels import balanced_labels
from sampling.parts import SampleParts
from sampling.recipe import make_recipe, output_path
from sampling.sample_config import ODE, SDE, check_sample_config

PREVIEW = 64  # images in the picture beside the .npz
POLL_SECONDS = 0.5


class Sampling:
    """A sampling run of one process: everything loaded and checked, nothing sampled yet.

    Raises `ValueError` for settings that contradict each other, the checkpoint or the codec.
    """

    def __init__(self, config: ODE | SDE):
        check_sample_config(config)
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
        """Images of batch k and, per image, label, number of function evaluations, likelihood."""
        c, size = self.config, self.config.per_proc_batch_size
        numbers, labels = range(k * size, (k + 1) * size), None
        if c.label_sampling == "balanced":
            labels = balanced_labels(c.global_seed, numbers, self.recipe["num_classes"])
        likelihood = isinstance(c, ODE) and c.likelihood
        return self.maker.images(c.global_seed, numbers, labels, likelihood)

    def run(self, rank: int, world_size: int) -> None:
        """Sample this process's batches; the first process then waits for all and assembles."""
        parts = self.parts
        progress = tqdm(
            desc=parts.out.stem,
            initial=parts.images_finished(),
            total=parts.count,
            unit="image",
            disable=rank > 0,
            mininterval=1,
            miniters=0,  # a batch may take minutes: its evaluations are shown as they come
            smoothing=0,
        )

        def show(evaluations: int) -> None:
            progress.set_postfix(nfe=evaluations, refresh=False)
            progress.update(0)

        self.maker.network.on_evaluation = show
        for k in range(rank, parts.batches, world_size):
            if parts.finished(k):
                parts.write_pictures(k)
                continue
            images, columns = self.batch(k)
            parts.write_pictures(k, images)
            parts.write(k, images, **columns)
            progress.update(parts.images_finished() - progress.n)
        while rank == 0 and progress.n < parts.count:
            time.sleep(POLL_SECONDS)
            progress.update(parts.images_finished() - progress.n)
        progress.close()
        if rank == 0:
            save_grid(parts.head(PREVIEW), parts.preview)
            recipe = parts.assemble()
            print(f"{parts.out}: {parts.count} images, NFE {recipe['nfe']['mean']:g}")

    def finish_pictures(self, rank: int, world_size: int) -> None:
        """Write this process's share of the pictures of a set that is finished already."""
        if self.parts.pictures:
            self.parts.pictures.prepare()
            for k in range(rank, self.parts.batches, world_size):
                self.parts.write_pictures(k)
