"""Sample grids while training: EMA weights, the same noise and labels every time."""

from pathlib import Path

import numpy as np
import torch

from runtime.png import save_grid
from runtime.randomness import PREVIEW, image_streams
from training.config import TrainConfig
from training.monitors.monitor import Moment, Monitor, Watched
from training.tracking import RunLog
from transport import Guidance, Sampler, StepTooSmall

IMAGES = 16


class SampleGrid(Monitor):
    """Images of classes spread evenly over 0..K-1, sampled with SiT's default ODE."""

    def __init__(self, run: Watched):
        self.run = run

    @staticmethod
    def interval(c: TrainConfig) -> int:
        return c.sample_every

    def look(self, now: Moment, log: RunLog) -> None:
        """Write samples/0000400.png in the run's folder and show it in the trackers."""
        first = self.run.accelerator.is_main_process
        if not (first or self.run.parallel.sharded):
            return  # a sharded network needs every process
        try:
            images = self.images()
        except StepTooSmall as error:  # a picture is not worth the run
            log.say(f"step {now.step}: no picture, {error}")
            return
        if first:
            path = self.path(now.step, log)
            save_grid(images, path)
            log.write_image(now.step, path)

    def has_looked(self, step: int, log: RunLog) -> bool:
        return self.path(step, log).exists()

    @staticmethod
    def path(step: int, log: RunLog) -> Path:
        return log.path.parent / "samples" / f"{step:07d}.png"

    @torch.no_grad()
    def images(self) -> np.ndarray:
        """Sample the grid's images, uint8 (16, H, W, C)."""
        run, ema = self.run, self.run.ema
        device, shape = run.accelerator.device, run.encoding.latent_shape
        noise = image_streams(run.config.global_seed, range(IMAGES), device, PREVIEW).normal(shape)
        labels = torch.arange(IMAGES, device=device) * ema.num_classes // IMAGES
        sample = Sampler(run.transport).sample_ode(trajectory=False)
        latents = sample(noise, Guidance(run.evaluated, run.config.cfg_scale), y=labels)[-1]
        return run.encoding.codec.decode(latents).cpu().numpy()
