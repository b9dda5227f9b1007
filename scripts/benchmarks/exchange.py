"""Benchmark of steps of several processes: how gradients, optimizer and EMA are shared out.

    torchrun --nproc_per_node=2 scripts/benchmark.py --parts exchange --models SiT-S/2:4

The ways alternate, each with a network of its own. "sent_mb" is counted, not measured: what a ring
of w processes sends from each in a step, (w - 1) / w of the bytes for each gathering of weights or
scattering of gradients; an all-reduce is one of both.
"""

import statistics
from collections.abc import Iterator

import torch

from runtime.launch import rank, world_size
from scripts.benchmarks.measured_step import Step
from scripts.benchmarks.timing import Deadline, alternate, attempt, ratio

COLUMNS = dict(
    model="", batch="", processes="d", precision="", shard="", gradients="", step_ms=".4g",
    images_per_second=".3g", sent_mb=".0f", time_ratio=".3f", lowest=".2f", highest=".2f",
    norm_change=".1e", note="",
)  # fmt: skip
WAYS: dict[tuple[str, str], dict] = {
    ("none", "fp32"): {},
    ("none", "bf16"): dict(bf16_gradients=True),
    ("optimizer", "fp32"): dict(shard="optimizer"),
    ("optimizer", "bf16"): dict(shard="optimizer", bf16_gradients=True),
    ("all", "fp32"): dict(shard="all"),
}
GATHERED = {"none": 0, "optimizer": 1, "all": 2}  # times that the weights are, in a step


def run(c, deadline: Deadline) -> Iterator[dict]:
    """Yield a row for each way, of each model at its batch size on each process."""
    precision = c.precisions[0]
    for name, batch in c.sizes():

        def work(name=name, batch=batch):
            return measure(c, name, batch, precision)

        for row in attempt(work, deadline):
            yield dict(model=name, batch=batch, processes=world_size(), precision=precision) | row


def measure(c, name: str, batch: int, precision: str) -> list[dict]:
    loss, compiled = c.losses[0], c.compiled == "yes"
    steps = {
        way: Step(name, precision, compiled, batch, (loss,), options=options)
        for way, options in WAYS.items()
    }
    norms = {way: first_norm(step, loss) for way, step in steps.items()}
    works = {way: lambda step=step: step(loss) for way, step in steps.items()}
    times, plain = alternate(works, c.repeats, warmup=1, clock=c.clock), ("none", "fp32")
    rows = []
    for (shard, gradients), taken in times.items():
        ratios = [a / b for a, b in zip(taken, times[plain], strict=True)]
        median, network = statistics.median(taken), steps[plain].parallel.network
        count = sum(p.numel() for p in network.parameters())
        rows.append(
            dict(
                shard=shard,
                gradients=gradients,
                step_ms=1e3 * median,
                images_per_second=batch * world_size() / median,
                sent_mb=sent_bytes(count, shard, gradients) / 1e6,
                time_ratio=ratio(taken, times[plain]),
                lowest=min(ratios),
                highest=max(ratios),
                norm_change=norms[shard, gradients] / norms[plain] - 1,
                seconds=taken,
            )
        )
    return rows


def first_norm(step: Step, loss: str) -> float:
    """Return the norm of the first step's gradients: the same weights and draws each time."""
    torch.manual_seed(rank())
    return step(loss).item()


def sent_bytes(parameters: int, shard: str, gradients: str) -> float:
    """Return what each process sends in a step; weights are sent in fp32."""
    scattered = parameters * (2 if gradients == "bf16" else 4)
    # DDP's all-reduce gathers the reduced gradients, in the precision in which it scatters them
    gathered = GATHERED[shard] * parameters * 4 or scattered
    return (scattered + gathered) * (world_size() - 1) / world_size()
