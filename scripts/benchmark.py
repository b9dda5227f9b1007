"""Measure this implementation on this machine: one command, one JSON file, one table for each part.

    python scripts/benchmark.py                                   # everything
    python scripts/benchmark.py --parts steps --models SiT-B/2:8 --precisions fp32 bf16
    python scripts/benchmark.py --parts steps --compiled both     # eager and compiled
    python scripts/benchmark.py --parts steps --losses layer_sync dispersive sra repa
    python scripts/benchmark.py --parts sampling npz --npz-images 10000

steps        training without and with LayerSync and other losses, alternating: images/s from the
             median step, the cost of a loss from the median ratio of neighbouring steps.
             "of_peak" is the fraction of the matrix-product rate measured at the start in the same
             precision. Memory is the allocator's peak on a GPU, what a step saves for its backward
             pass on a CPU. REPA's encoder has random weights
checkpoints  writing, flushed to the disk, and reading
latents      reading a latent cache in shuffled order, with 0, 1 and 2 loading processes
sampling     each solver with few steps, alternating with as many bare evaluations of the network:
             "overhead" is the median of what a run takes longer, as a fraction of these. A guided
             evaluation is one with twice the batch, "passes" counts it twice; its "time_ratio" is
             to the same solver unguided. "network_ms" and "solver_ms" are of one evaluation, the
             latter with a network that costs nothing: a noisy machine leaves it alone
blocks       probing all blocks at one time of the path, alternating with bare passes of the
             network: "tokens" is the median ratio of extraction to the pass beside it, "ridge" with
             the sums of a ridge probe of every block
npz          writing random 256 x 256 images as a sampling run does and assembling the .npz, with
             the growth of resident memory; in a temporary folder
"""

# ruff: noqa: E402 (the command line is parsed before torch is imported)
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from runtime.flags import flag


@dataclass(frozen=True)
class Benchmark:
    parts: tuple[Literal["steps", "checkpoints", "latents", "sampling", "blocks", "npz"], ...] = (
        "steps",
        "checkpoints",
        "latents",
        "sampling",
        "blocks",
        "npz",
    )
    """what to measure"""
    models: tuple[str, ...] = ("SiT-S/2:8", "SiT-B/2:8", "SiT-XL/2:2")
    """models and their batch sizes, for latents of 256 x 256 images"""
    sampling_models: tuple[str, ...] = ("SiT-S/2:16",)
    """the same for sampling"""
    precisions: tuple[Literal["fp32", "tf32", "bf16"], ...] = ("fp32", "bf16")
    """fp32, tf32 (GPU) and bf16 autocast; what the device only emulates is left out"""
    losses: tuple[Literal["layer_sync", "dispersive", "sra", "repa", "repa+layer_sync"], ...] = (
        "layer_sync",
    )
    """what is compared with vanilla steps"""
    compiled: Literal["no", "yes", "both"] = "no"
    """whether blocks are compiled"""
    repeats: int = 7
    """counted runs of each variant, after two that are not"""
    npz_images: int = 50_000
    """images of the .npz; each takes 0.4 MB of disk while it works"""
    clock: Literal["wall", "cpu"] = "wall"
    """for training steps and blocks: wall time, or on a CPU the processor time of this process,
    which other jobs on the machine hardly change; with OMP_NUM_THREADS=1, so that no threads wait
    in it"""
    out: str = "benchmark.json"
    """where to write the figures"""

    def sizes(self, field: str = "models") -> list[tuple[str, int]]:
        """Return (model, batch size) pairs; raise `ValueError` for a text not MODEL:BATCH."""
        models = getattr(self, field)
        pairs = [model.rpartition(":") for model in models]
        wrong = [model for model, (name, _, n) in zip(models, pairs, strict=True)
                 if not name or not n.isdigit() or n == "0"]  # fmt: skip
        if wrong:
            raise ValueError(f"{flag(field)} {wrong[0]}: write MODEL:BATCH, as in SiT-B/2:8")
        return [(name, int(batch)) for name, _, batch in pairs]


if __name__ == "__main__":
    CONFIG = parse_command(Benchmark)

import json
import os
import platform

import torch

from scripts.benchmarks import assembly, extraction, sampling, steps, storage
from scripts.benchmarks.timing import DEVICE, matmul_peaks


def device_name() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ] if Path("/proc/cpuinfo").exists() else []  # fmt: skip
    name = models[0] if models else platform.processor()
    return f"{name}, {os.cpu_count()} cores"


def markdown(rows: list[dict], columns: dict[str, str]) -> str:
    """Return a table of those columns, {name: format}, that any row has."""
    columns = {name: form for name, form in columns.items() if any(name in row for row in rows)}
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [format(row[name], form) if name in row else "" for name, form in columns.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(c: Benchmark) -> None:
    with usage_errors():
        if c.clock == "cpu" and DEVICE.type == "cuda":
            raise ValueError("--clock cpu: a GPU's work takes no processor time; leave it out")
        c.sizes()
        c.sizes("sampling_models")
        if "npz" in c.parts:
            assembly.check(c)
    print(f"{device_name()}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    record: dict[str, Any] = dict(device=device_name(), torch=torch.__version__, settings=asdict(c))
    if {"steps", "sampling"} & set(c.parts):
        peaks = record["matmul"] = matmul_peaks(c.precisions, c.clock)
        for precision, rate in peaks.items():
            print(f"matrix products, {precision}: {rate / 1e12:.3g} TFLOP/s")
    parts = {
        "steps": (lambda: steps.run(c, peaks), steps.COLUMNS),
        "checkpoints": (lambda: storage.checkpoints(c), storage.CHECKPOINT_COLUMNS),
        "latents": (lambda: storage.latents(c), storage.LATENT_COLUMNS),
        "sampling": (lambda: sampling.run(c, peaks), sampling.COLUMNS),
        "blocks": (lambda: extraction.run(c), extraction.COLUMNS),
        "npz": (lambda: assembly.run(c), assembly.COLUMNS),
    }
    for name, (measure, columns) in parts.items():
        if name in c.parts:
            record[name] = []
            for row in measure():
                record[name].append(row)
                Path(c.out).write_text(json.dumps(record, indent=1) + "\n")  # it may be stopped
            print("\n" + markdown(record[name], columns), flush=True)
    print(f"\nwritten to {c.out}")


if __name__ == "__main__":
    main(CONFIG)
