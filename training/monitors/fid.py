"""FID while training: the EMA network is sampled in place and scored, nothing is written.

Image i, its label and its noise are those of sample_ddp.py with the run's seed, so that a number
logged here is what sampling that checkpoint with these settings and `python -m evaluation` give: in
the precision of the steps and compiled as they are, as `eval_dtype` and `eval_compiled` beside it
say. That is `sample_ddp.py --bf16 --compile` on most GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.monitors.monitor import Moment, Monitor, Watched

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.tracking import RunLog


class FID(Monitor):
    """Samples shared out over the processes and scored against a reference; no guidance.

    Raises `ValueError` when the reference or the networks that score cannot be used.
    """

    logs = "eval_"

    def __init__(self, run: Watched):
        from evaluation.options import MetricOptions
        from evaluation.scorers import load_scorer
        from sampling.in_place import InPlaceSampler
        from sampling.network import describe_dtype

        self.config, codec = run.config.evaluation, run.encoding.codec
        device = next(run.ema.parameters()).device
        self.sampler = InPlaceSampler(
            run.evaluated,
            run.transport,
            codec,
            run.encoding.latent_shape,
            num_classes=run.ema.num_classes,
            steps=self.config.eval_steps,
            seed=run.config.global_seed,
            batch=self.config.eval_batch_size,
            device=device,
        )
        size, engine = run.config.known_size, run.config.engine
        dtype = describe_dtype(engine.precision == "bf16", engine.precision != "fp32", device)
        self.about: dict[str, str | bool] = {
            "eval_dtype": dtype,
            "eval_compiled": bool(engine.compile),
        }
        options = MetricOptions(inception_weights=self.config.eval_inception_weights)
        shape = size, size, codec.image_channels
        assert self.config.eval_ref is not None  # without it, this monitor is not made
        self.scorer = load_scorer(self.config.eval_ref, shape, "this run", options)
        count = self.scorer.processes.count
        if self.config.eval_samples < count:
            raise ValueError(
                f"--eval-samples {self.config.eval_samples}: fewer than the {count} processes; "
                f"give {count} or more"
            )

    @staticmethod
    def interval(c: TrainConfig) -> int:
        return c.evaluation.eval_every

    @staticmethod
    def check(c: TrainConfig) -> None:
        every, reference = c.evaluation.eval_every, c.evaluation.eval_ref
        if every and not reference:
            raise ValueError("--eval-every needs --eval-ref FILE, the reference for FID")
        if reference and not every:
            raise ValueError("--eval-ref has no effect without --eval-every N")

    def look(self, now: Moment, log: RunLog) -> None:
        log.write_extra(now.step, self.scores(), self.about)

    def scores(self) -> dict[str, float]:
        """Compute {"eval_fid": ..., ...} on the first process, {} on others; a collective."""
        processes, count = self.scorer.processes, self.config.eval_samples
        labels = self.sampler.labels(range(count)) if processes.first else None
        batches = self.sampler.batches(count, processes, "evaluation")
        scores = self.scorer.evaluate(batches, labels)
        return {f"eval_{name}": value for name, value in scores.metrics.items()} if scores else {}
