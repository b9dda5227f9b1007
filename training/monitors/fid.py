"""FID while training: the EMA network is sampled in place and scored, nothing is written.

Image i, its label and its noise are those of sample_ddp.py with the run's seed, so that a number
logged here is what sampling that checkpoint with these settings and `python -m evaluation` give.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from evaluation.options import MetricOptions
from evaluation.scorers import load_scorer
from runtime.progress import Progress
from runtime.randomness import image_streams
from sampling.labels import random_labels
from training.config import TrainConfig
from training.monitors.monitor import Moment, Monitor, Watched
from training.tracking import RunLog
from transport import Sampler


class FID(Monitor):
    """Samples shared out over the processes and scored against a reference; no guidance.

    Raises `ValueError` when the reference or the networks that score cannot be used.
    """

    def __init__(self, run: Watched):
        self.ema, self.config, self.codec = run.ema, run.config.evaluation, run.encoding.codec
        self.latent_shape = run.encoding.latent_shape
        self.seed = run.config.global_seed
        self.sample = Sampler(run.transport).sample_ode(
            sampling_method="heun2", num_steps=self.config.eval_steps, trajectory=False
        )
        size = run.config.known_size
        options = MetricOptions(inception_weights=self.config.eval_inception_weights)
        shape = size, size, self.codec.image_channels
        assert self.config.eval_ref is not None  # without it, this monitor is not made
        self.scorer = load_scorer(self.config.eval_ref, shape, "this run", options)
        count = self.scorer.processes.count
        if self.config.eval_samples < count:
            raise ValueError(
                f"--eval-samples {self.config.eval_samples}: fewer than the {count} processes"
            )

    @staticmethod
    def interval(c: TrainConfig) -> int:
        return c.evaluation.eval_every

    def look(self, now: Moment, log: RunLog) -> None:
        log.write_extra(now.step, self.scores())

    def scores(self) -> dict[str, float]:
        """Compute {"eval_fid": ..., ...} on the first process, {} on others; a collective."""
        labels = self.labels(range(self.config.eval_samples))
        scores = self.scorer.evaluate(self.batches(), labels)
        return {f"eval_{name}": value for name, value in scores.metrics.items()} if scores else {}

    def labels(self, numbers: range) -> np.ndarray | None:
        """Labels of images `numbers` (n,), as `draw` draws them; None but on the first process."""
        if not self.scorer.processes.first:
            return None
        return random_labels(image_streams(self.seed, numbers), self.ema.num_classes).numpy()

    def batches(self) -> Iterator[Tensor]:
        """This process's share of the images, in order: uint8 (n, H, W, C), on the CPU."""
        processes, size = self.scorer.processes, self.config.eval_batch_size
        share = processes.share(self.config.eval_samples)
        # a sharded network needs every process in every pass: the longest share decides
        longest = -(-self.config.eval_samples // processes.count)
        with Progress("evaluation", len(share), "image", shown=processes.first) as progress:
            for start in range(0, longest, size):
                numbers = range(share.start + start, share.start + start + size)
                images = self.draw(numbers)
                count = max(0, min(size, len(share) - start))
                if count:
                    yield images[:count].cpu()
                progress.update(count)

    @torch.no_grad()
    def draw(self, numbers: range) -> Tensor:
        """Images `numbers` as sample_ddp.py makes them, uint8 (n, H, W, C)."""
        streams = image_streams(self.seed, numbers, next(self.ema.parameters()).device)
        labels = random_labels(streams, self.ema.num_classes)
        latents = self.sample(streams.normal(self.latent_shape), self.ema, y=labels)[-1]
        return self.codec.decode(latents)
