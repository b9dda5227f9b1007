"""Knowledge of the blocks of the EMA network, while training: linear probes, ranks, similarities.

Held-out images are probed if there are any, else some that are trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.monitors.monitor import Moment, Monitor, Watched

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.tracking import RunLog


class BlockProbes(Monitor):
    """Probes of the same images and noise at every look (evaluation/blocks/probed_images.py)."""

    logs = "probe_"

    def __init__(self, run: Watched):
        from evaluation.blocks.probed_images import Probing

        self.run, c = run, run.config
        source = run.held_out or run.source
        self.probing = Probing(source, c.probe_samples, c.global_seed, run.accelerator.device)

    @staticmethod
    def interval(c: TrainConfig) -> int:
        return c.probe_every

    @staticmethod
    def check(c: TrainConfig) -> None:
        if c.probe_every and c.streaming and not c.val_data_path:
            raise ValueError(
                f"--probe-every {c.probe_every}: streamed images cannot be chosen by class; give "
                f"--val-data-path FOLDER to probe its images, or --probe-every 0"
            )

    def look(self, now: Moment, log: RunLog) -> None:
        run = self.run
        values = self.probing.values(run.evaluated, run.ema.blocks, run.encoding, run.transport)
        log.write_extra(now.step, values)
