"""FID while training: the EMA network is sampled in place and scored, nothing is written.

Image i, its label and its noise are those of sample_ddp.py with the run's seed, so that a number
logged here is what sampling that checkpoint with these settings and `python -m evaluation` give.
"""

import torch
from torch import Tensor
from tqdm import tqdm

from data.encoding import Encoding
from runtime.processes import Processes
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
        scorer = PixelScorer if self.config.eval_ref == "digits" else InceptionScorer
        self.scorer = scorer(config, self.codec.image_channels)
        count = self.scorer.processes.count
        if self.config.eval_samples < count:
            raise ValueError(
                f"--eval-samples {self.config.eval_samples}: fewer than the {count} processes"
            )

    def __call__(self, ema) -> dict[str, float]:
        """{"eval_fid": ..., ...} on the first process, {} on the others; a collective."""
        found = self.scorer.metrics(self.batches(ema))
        return {f"eval_{name}": value for name, value in found.items()}

    def batches(self, ema):
        """This process's share of the images, in order: (uint8 (n, H, W, C), labels (n,))."""
        processes, size = self.scorer.processes, self.config.eval_batch_size
        share = processes.share(self.config.eval_samples)
        # a sharded network needs every process in every pass: the longest share decides
        longest = -(-self.config.eval_samples // processes.count)
        bar = tqdm(
            total=len(share), desc="evaluation", unit="image", leave=False, disable=processes.rank
        )
        for start in range(0, longest, size):
            numbers = range(share.start + start, share.start + start + size)
            images, labels = self.draw(ema, numbers)
            count = max(0, min(size, len(share) - start))
            if count:
                yield images[:count], labels[:count]
            bar.update(count)
        bar.close()

    @torch.no_grad()
    def draw(self, ema, numbers: range) -> tuple[Tensor, Tensor]:
        """Images `numbers` as sample_ddp.py makes them, and their labels."""
        streams = image_streams(self.seed, numbers, next(ema.parameters()).device)
        labels = random_labels(streams, ema.num_classes)
        latents = self.sample(streams.normal(self.latent_shape), ema, y=labels)[-1]
        return self.codec.decode(latents), labels


class InceptionScorer:
    """FID, sFID, Inception Score, precision and recall."""

    def __init__(self, config: TrainConfig, channels: int):
        from evaluation.evaluator import Evaluator
        from evaluation.options import MetricOptions

        c = config.evaluation
        if channels != 3:
            raise ValueError(
                f"--eval-ref {c.eval_ref}: images have {channels} channel, Inception needs RGB"
            )
        options = MetricOptions(inception_weights=c.eval_inception_weights)
        self.evaluator = Evaluator(c.eval_ref, options)
        shape = (config.image_size, config.image_size, channels)
        self.evaluator.reference.check_shape(shape, "this run")
        self.processes = self.evaluator.processes

    def metrics(self, batches) -> dict[str, float]:
        scores = self.evaluator.evaluate(images.cpu() for images, _ in batches)
        return scores.metrics if scores else {}


class PixelScorer:
    """Scores in pixel space against scikit-learn's digits; not FID."""

    def __init__(self, config: TrainConfig, channels: int):
        from evaluation.pixel_scores import load_images

        self.reference, self.processes = load_images("digits"), Processes()
        here, there = (config.image_size, config.image_size, channels), self.reference[0].shape[1:]
        if here != there:
            raise ValueError(f"--eval-ref digits: images of {there}, this run makes {here}")

    def metrics(self, batches) -> dict[str, float]:
        from evaluation.pixel_scores import pixel_metrics

        pairs = [torch.cat(parts) for parts in zip(*batches, strict=True)]
        images, labels = (self.processes.collect(part) for part in pairs)
        if not images:
            return {}
        samples = torch.cat(images).numpy(), torch.cat(labels).numpy(), None
        return pixel_metrics(samples, self.reference)
