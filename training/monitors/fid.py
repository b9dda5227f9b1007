"""FID while training: the EMA network is sampled in place and scored, nothing is written.

Image i, its label and its noise are those of sample_ddp.py with the run's seed, so that a number
logged here is what sampling that checkpoint with these settings and `python -m evaluation` give.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.encoding import Encoding
from evaluation.options import MetricOptions
from evaluation.scorers import load_scorer
from runtime.randomness import image_streams
from sampling.labels import random_labels
from training.config import TrainConfig
from transport import Sampler, Transport


class InTraining:
    """Samples shared out over the processes and scored against a reference; no guidance.

    Raises `ValueError` when the reference or the networks that score cannot be used.
    """

    def __init__(self, config: TrainConfig, encoding: Encoding, transport: Transport):
        self.config, self.codec = config.evaluation, encoding.codec
        self.latent_shape = encoding.latent_shape
        self.seed = config.global_seed
        self.sample = Sampler(transport).sample_ode(
            sampling_method="heun2", num_steps=self.config.eval_steps, trajectory=False
        )
        size = config.image_size
        options = MetricOptions(inception_weights=self.config.eval_inception_weights)
        shape = size, size, self.codec.image_channels
        self.scorer = load_scorer(self.config.eval_ref, shape, "this run", options)
        count = self.scorer.processes.count
        if self.config.eval_samples < count:
            raise ValueError(
                f"--eval-samples {self.config.eval_samples}: fewer than the {count} processes"
            )

    def __call__(self, ema) -> dict[str, float]:
        """{"eval_fid": ..., ...} on the first process, {} on the others; a collective."""
        labels = self.labels(range(self.config.eval_samples), ema.num_classes)
        scores = self.scorer.evaluate(self.batches(ema), labels)
        return {f"eval_{name}": value for name, value in scores.metrics.items()} if scores else {}

    def labels(self, numbers: range, classes: int) -> np.ndarray | None:
        """Labels of images `numbers` (n,), as `draw` draws them; None but on the first process."""
        if not self.scorer.processes.first:
            return None
        return random_labels(image_streams(self.seed, numbers), classes).numpy()

    def batches(self, ema) -> Iterator[Tensor]:
        """This process's share of the images, in order: uint8 (n, H, W, C), on the CPU."""
        processes, size = self.scorer.processes, self.config.eval_batch_size
        share = processes.share(self.config.eval_samples)
        # a sharded network needs every process in every pass: the longest share decides
        longest = -(-self.config.eval_samples // processes.count)
        bar = tqdm(
            total=len(share), desc="evaluation", unit="image", leave=False, disable=processes.rank
        )
        for start in range(0, longest, size):
            numbers = range(share.start + start, share.start + start + size)
            images = self.draw(ema, numbers)
            count = max(0, min(size, len(share) - start))
            if count:
                yield images[:count].cpu()
            bar.update(count)
        bar.close()

    @torch.no_grad()
    def draw(self, ema, numbers: range) -> Tensor:
        """Images `numbers` as sample_ddp.py makes them, uint8 (n, H, W, C)."""
        streams = image_streams(self.seed, numbers, next(ema.parameters()).device)
        labels = random_labels(streams, ema.num_classes)
        latents = self.sample(streams.normal(self.latent_shape), ema, y=labels)[-1]
        return self.codec.decode(latents)
