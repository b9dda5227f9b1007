"""Looks at the EMA network every so many steps of a run; none of them changes the run."""

import dataclasses
from collections.abc import Callable

from data.encoding import Encoding
from data.sources import load_source
from runtime.png import save_grid
from training.config import TrainConfig
from training.monitors.preview import preview
from training.monitors.validation import Validation
from training.parallel import Parallel
from training.tracking import RunLog
from transport import Transport

Look = Callable[[int, RunLog], None]


class Monitors:
    """Sample grids, held-out losses and what else is added, each at its own interval.

    Raises `ValueError` when held-out data cannot be used.
    """

    def __init__(
        self, config: TrainConfig, encoding: Encoding, transport: Transport, parallel: Parallel
    ):
        self.config, self.encoding, self.transport = config, encoding, transport
        self.ema, self.parallel = parallel.ema, parallel
        self.accelerator = parallel.accelerator
        self.due: list[tuple[int, Look]] = []
        self.add(config.sample_every, self.draw_samples)
        self.validation = self.held_out() if config.val_data_path else None
        if self.validation:
            losses = logged(self.validation.losses, self.ema, encoding, transport)
            self.add(config.val_every, losses)

    def add(self, every: int, look: Look) -> None:
        """Call `look(step, log)` on every process, every so many steps; 0 is never."""
        if every:
            self.due.append((every, look))

    def __call__(self, step: int, log: RunLog) -> None:
        """After `step` steps; a collective."""
        for every, look in self.due:
            if step % every == 0:
                look(step, log)

    def draw_samples(self, step: int, log: RunLog) -> None:
        first = self.accelerator.is_main_process
        if not (first or self.parallel.sharded):
            return  # a sharded network needs every process
        c = self.config
        given = self.ema, self.encoding.codec, self.transport, self.encoding.latent_shape
        images = preview(*given, c.global_seed, c.cfg_scale, self.accelerator.device)
        if first:
            path = log.path.parent / "samples" / f"{step:07d}.png"
            save_grid(images, path)
            log.write_image(step, path)

    def held_out(self) -> Validation:
        c = self.config
        named = dict(data_path=c.val_data_path, dataset_name=None, streaming=False)
        source = load_source(dataclasses.replace(c, **named), batch=1)
        source.check_codec(self.encoding.codec, c.image_size)
        return Validation(source, c.val_samples, c.global_seed, self.accelerator)


def logged(values: Callable[..., dict[str, float]], *given) -> Look:
    """A look that logs what `values(*given)` returns."""

    def look(step: int, log: RunLog) -> None:
        log.write_extra(step, values(*given))

    return look
