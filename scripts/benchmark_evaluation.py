"""Measure time and memory of each stage of an evaluation, on features of real sizes, as Markdown.

    python scripts/benchmark_evaluation.py                      # minutes; a part, extrapolated
    python scripts/benchmark_evaluation.py --part 1             # all of it, for a GPU
    python scripts/benchmark_evaluation.py --stages root sqrtm

Features are random and so are Inception's weights, unless --inception-weights: neither changes the
time. Each stage runs in a process of its own, whose peak memory it is.
"""

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from scripts.benchmarks.evaluation_stages import STAGES, StageConfig, Timing


def run_stage(name: str, b: StageConfig) -> tuple[Timing, str]:
    """Run a stage in a process of its own; return the timing and the peak memory."""
    import torch

    timing = STAGES[name](b)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # from KiB
    memory = f"{gigabytes:.2f} GiB"
    if torch.cuda.is_available():
        memory += f" + {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB GPU"
    return timing, memory


def describe_machine() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def main() -> None:
    b = parse_command(StageConfig)
    with usage_errors():
        if unknown := set(b.stages) - set(STAGES):
            raise ValueError(f"--stages {' '.join(unknown)}: choose from {', '.join(STAGES)}")
        if not 0 < b.part <= 1:
            raise ValueError(f"--part {b.part}: must be above 0 and at most 1")
    print(f"{describe_machine()}; the last column is an estimate unless all was measured\n")
    print("| stage | measured | seconds | peak memory | seconds for 50,000 |")
    print("|---|---|---|---|---|", flush=True)
    for name in b.stages or STAGES:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            timing, memory = process.submit(run_stage, name, b).result()
        whole = timing.seconds * timing.factor
        print(
            f"| {name} | {timing.measured} | {timing.seconds:.2f} | {memory} | {whole:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
