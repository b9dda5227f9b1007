"""Lines that a run shows to its reader: at its start, and one for each log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.progress import duration

if TYPE_CHECKING:
    from training.loop import Training


def announce(training: Training) -> None:
    """Say what is about to run, once."""
    if not training.accelerator.is_main_process:
        return
    config, count = training.config, sum(p.numel() for p in training.network.parameters())
    data = f"{len(training.source)} images of {config.num_classes} classes"
    print(f"{config.model}: {count / 1e6:.1f}M parameters, {data}")
    if advice := training.encoding.advice:
        print(advice)
    for regularizer in training.objective.regularizers:
        print(regularizer.announcement())
    print(
        f"{training.accelerator.num_processes} x {training.accelerator.device.type}, "
        f"{config.engine.precision}{', compiled' if config.engine.compile else ''}, "
        f"steps {training.step} to "
        f"{training.last_step}, results in {training.folder}",
        flush=True,
    )


def step_line(values: dict[str, float], step: int, last_step: int, batch: int, speed: float) -> str:
    """Return a line about logged averages; metrics.jsonl has all values.

    Args:
        batch: images in a step.
        speed: images per second, 0 while it is not known.
    """
    words = [f"loss {values['loss']:.4f}"]
    for name, value in values.items():
        if name.startswith("similarity_"):
            pair = name.removeprefix("similarity_").replace("_", "-")
            words += [f"similarity {pair} {value:.4f}"]
    left = duration((last_step - step) * batch / speed) if speed else "?"
    return ", ".join([f"step {step}/{last_step}", *words, f"{speed:,.1f} images/s", f"{left} left"])
