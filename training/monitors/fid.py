"""FID while training: the EMA network is sampled in place and scored, nothing is written.

Image i, its label and its noise are those of sample_ddp.py with the run's seed, so that a number
logged here is what sampling that checkpoint with these settings and `python -m evaluation` give.
"""

from evaluation.options import MetricOptions
from evaluation.scorers import load_scorer
from sampling.in_place import InPlaceSampler
from training.config import TrainConfig
from training.monitors.monitor import Moment, Monitor, Watched
from training.tracking import RunLog


class FID(Monitor):
    """Samples shared out over the processes and scored against a reference; no guidance.

    Raises `ValueError` when the reference or the networks that score cannot be used.
    """

    def __init__(self, run: Watched):
        self.config, codec = run.config.evaluation, run.encoding.codec
        self.sampler = InPlaceSampler(
            run.ema,
            run.transport,
            codec,
            run.encoding.latent_shape,
            num_classes=run.ema.num_classes,
            steps=self.config.eval_steps,
            seed=run.config.global_seed,
            batch=self.config.eval_batch_size,
            device=next(run.ema.parameters()).device,
        )
        size = run.config.known_size
        options = MetricOptions(inception_weights=self.config.eval_inception_weights)
        shape = size, size, codec.image_channels
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
        processes, count = self.scorer.processes, self.config.eval_samples
        labels = self.sampler.labels(range(count)) if processes.first else None
        batches = self.sampler.batches(count, processes, "evaluation")
        scores = self.scorer.evaluate(batches, labels)
        return {f"eval_{name}": value for name, value in scores.metrics.items()} if scores else {}
