"""Sample grids while training: EMA weights, the same noise and labels every time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from training.monitors.monitor import Moment, Monitor, Watched, load_now

if TYPE_CHECKING:
    import numpy as np

    from training.config import TrainConfig
    from training.tracking import RunLog

IMAGES = 16


class SampleGrid(Monitor):
    """Images of classes spread evenly over 0..K-1, sampled with SiT's default ODE."""

    def __init__(self, run: Watched):
        load_now("runtime.png")
        self.run = run

    @staticmethod
    def interval(c: TrainConfig) -> int:
        return c.sample_every

    def look(self, now: Moment, log: RunLog) -> None:
        """Write samples/0000400.png in the run's folder and show it in the trackers."""
        from runtime.error_text import in_one_line
        from runtime.png import save_grid
        from transport import StepTooSmall

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
            try:
                save_grid(images, path)
            except OSError as error:
                log.say(f"step {now.step}: no picture, {in_one_line(error)}")
                return
            log.write_image(now.step, path)

    def has_looked(self, step: int, log: RunLog) -> bool:
        return self.path(step, log).exists()

    @staticmethod
    def path(step: int, log: RunLog) -> Path:
        return log.path.parent / "samples" / f"{step:07d}.png"

    def images(self) -> np.ndarray:
        """Sample the grid's images, uint8 (16, H, W, C)."""
        import torch

        from runtime.randomness import PREVIEW, image_streams
        from transport import Guidance, Sampler

        run, ema = self.run, self.run.ema
        device, shape = run.accelerator.device, run.encoding.latent_shape
        noise = image_streams(run.config.global_seed, range(IMAGES), device, PREVIEW).normal(shape)
        labels = torch.arange(IMAGES, device=device) * ema.num_classes // IMAGES
        sample = Sampler(run.transport).sample_ode(trajectory=False)
        with torch.no_grad():
            latents = sample(noise, Guidance(run.evaluated, run.config.cfg_scale), y=labels)[-1]
            return run.encoding.codec.decode(latents).cpu().numpy()
