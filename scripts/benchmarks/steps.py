"""Benchmark of training steps as in train.py, without and with regularisers in turn."""

import statistics
from collections.abc import Iterator

from tqdm import tqdm

from scripts.benchmarks.measured_step import Step, step_flops
from scripts.benchmarks.timing import (
    DEVICE,
    IN_A_ROW,
    Deadline,
    alternate,
    attempt,
    compiled_or_not,
    ratio,
)

COLUMNS = dict(
    model="", batch="", precision="", compiled="", options="", loss="", images_per_second=".3g",
    of_peak=".0%", memory_gb=".3f", time_ratio=".4f", memory_ratio=".4f", parameters="d", note="",
)  # fmt: skip


def measure(
    c, name: str, batch: int, precision: str, compiled: bool, peak: float,
    options: tuple[str, ...] = (),
) -> list[dict]:  # fmt: skip
    """Return a row for vanilla and one for each of the losses, from alternating steps."""
    flops = step_flops(name, batch)
    step = Step(name, precision, compiled, batch, c.losses, options=dict.fromkeys(options, True))
    works = {loss: lambda loss=loss: step(loss) for loss in step.objectives}
    times = alternate(works, c.repeats, clock=c.clock, runs=IN_A_ROW)
    memory = {loss: step.memory(loss) for loss in works}
    rows = []
    for loss, measured in times.items():
        median = statistics.median(measured)
        modules = step.parallel.network, step.heads[loss].modules
        row = dict(
            cell(name, batch, precision, compiled, options), loss=loss,
            images_per_second=batch / median, of_peak=flops / median / peak,
            memory_gb=memory[loss] / 1e9, seconds=measured,
            parameters=sum(p.numel() for module in modules for p in module.parameters()),
        )  # fmt: skip
        if loss != "vanilla":
            row["time_ratio"] = ratio(measured, times["vanilla"])
            row["memory_ratio"] = memory[loss] / memory["vanilla"]
        rows.append(row)
    return rows


def cell(
    name: str, batch: int, precision: str, compiled: bool, options: tuple[str, ...] = ()
) -> dict:
    """Return the columns that say what is measured."""
    words = ", ".join(option.replace("_", " ") for option in options)
    compiles = "yes" if compiled else "no"
    return dict(model=name, batch=batch, precision=precision, compiled=compiles, options=words)


def encoding_on_the_fly(name: str, batch: int, repeats: int) -> dict:
    """Measure training as in the originals: eager TF32, the autoencoder in every step."""
    step = Step(name, "tf32", False, batch, encode=True)
    times = alternate({"vanilla": lambda: step("vanilla")}, repeats, runs=IN_A_ROW)["vanilla"]
    speed = batch / statistics.median(times)
    label = "vanilla, encoding images"
    return dict(
        model=name, batch=batch, precision="tf32", compiled="no", loss=label,
        images_per_second=speed, seconds=times,
    )  # fmt: skip


def run(c, peaks: dict[str, float], deadline: Deadline) -> Iterator[dict]:
    """Yield the rows as they are measured; a cell that fails, or has no time left, says so."""
    kinds = [(p, k) for p in peaks for k in compiled_or_not(c)]
    cells = [(m, b, p, k) for p, k in kinds for m, b in c.sizes()]
    for name, batch, precision, compiles in tqdm(cells, desc="training steps", unit="cell"):

        def work(name=name, batch=batch, precision=precision, compiles=compiles):
            return measure(c, name, batch, precision, compiles, peaks[precision])

        for row in attempt(work, deadline):
            yield cell(name, batch, precision, compiles) | row


OPTIONS = (("bf16_weights",), ("bf16_residual",), ("bf16_weights", "bf16_residual"))


def run_options(c, peaks: dict[str, float], deadline: Deadline) -> Iterator[dict]:
    """Yield rows of the options that change numbers, for the first model in bf16."""
    name, batch = c.sizes()[0]
    compiles = compiled_or_not(c)[0]
    for options in tqdm(OPTIONS if "bf16" in peaks else (), desc="options", unit="cell"):

        def work(options=options):
            return measure(c, name, batch, "bf16", compiles, peaks["bf16"], options)

        for row in attempt(work, deadline):
            yield cell(name, batch, "bf16", compiles, options) | row


def run_originals(c, deadline: Deadline) -> Iterator[dict]:
    """Yield rows of training that encodes images in every step, as the originals do."""
    for name, batch in c.sizes() if DEVICE.type == "cuda" else ():

        def work(name=name, batch=batch):
            return [encoding_on_the_fly(name, batch, c.repeats)]

        for row in attempt(work, deadline):
            yield cell(name, batch, "tf32", False) | row
