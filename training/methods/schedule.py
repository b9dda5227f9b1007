"""lambda over training as the --reg-* flags describe it, by the library's schedule."""

from layersync import Schedule
from training.methods.layer_sync import RegScheduleConfig


def reg_schedule(c: RegScheduleConfig, weight: float, last_step: int) -> Schedule:
    """Return the schedule of a run to `last_step` whose lambda is `weight`."""
    return Schedule(
        weight=weight,
        scheduler=c.reg_scheduler,
        warmup_steps=c.reg_warmup_steps,
        decay_steps=last_step if c.reg_decay_steps is None else c.reg_decay_steps,
        weight_end=c.reg_weight_end,
        power=c.reg_power,
        cutoff_step=c.reg_cutoff_step,
        similarity_threshold=c.reg_similarity_threshold,
        similarity_decay=c.reg_similarity_decay,
        threshold_mode=c.reg_threshold_mode,
    )
