"""Knowledge of the blocks of the EMA network, while training: linear probes, ranks, similarities.

Held-out images are probed if there are any, else some that are trained on.
"""

from evaluation.blocks.probed_images import Probing
from training.config import TrainConfig
from training.monitors.monitor import Moment, Monitor, Watched
from training.tracking import RunLog


class BlockProbes(Monitor):
    """The same images with the same noise at every look (evaluation/blocks/probed_images.py)."""

    logs = "probe_"

    def __init__(self, run: Watched):
        self.run, c = run, run.config
        source = run.held_out or run.source
        self.probing = Probing(source, c.probe_samples, c.global_seed, run.accelerator.device)

    @staticmethod
    def interval(c: TrainConfig) -> int:
        return c.probe_every

    def look(self, now: Moment, log: RunLog) -> None:
        run = self.run
        values = self.probing.values(run.evaluated, run.ema.blocks, run.encoding, run.transport)
        log.write_extra(now.step, values)
