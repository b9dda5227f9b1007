"""Time the parts of a training step, in one process, with and without LayerSync in turn.

    python scripts/benchmark.py                    # S/2, B/2 and XL/2 in fp32 and bf16
    python scripts/benchmark.py --models SiT-B/2 --batch-size 8 --precisions fp32 bf16
    python scripts/benchmark.py --compiled both    # eager and compiled

Prints a Markdown table and writes everything to benchmark.json. A row's two variants, vanilla and
layer_sync, alternate step by step; images/s come from the median step, the cost of LayerSync from
the median of the ratios of neighbouring steps, which a drifting machine leaves alone. The fraction
of the peak is of the matrix-product rate measured at the start in the same precision. Memory is the
allocator's peak on a GPU, and what a step saves for its backward pass on the CPU.
"""

# ruff: noqa: E402 (the command line is parsed before torch is imported)
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training.launch import parse_command


@dataclass(frozen=True)
class Benchmark:
    models: tuple[str, ...] = ("SiT-S/2", "SiT-B/2", "SiT-XL/2")
    """models to train"""
    precisions: tuple[Literal["fp32", "tf32", "bf16"], ...] = ("fp32", "bf16")
    """fp32, tf32 (GPU) and bf16 autocast"""
    compiled: Literal["no", "yes", "both"] = "no"
    """whether the blocks are compiled"""
    batch_size: int = 8
    """images per step; latents of 256 x 256 images"""
    repeats: int = 5
    """counted steps of each variant, after two that are not"""
    checkpoints: bool = True
    """time writing and reading a checkpoint of each model too"""
    out: str = "benchmark.json"
    """where to write the figures"""


if __name__ == "__main__":
    CONFIG = parse_command(Benchmark)

import json
import statistics
import tempfile
import time
from contextlib import nullcontext
from copy import deepcopy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from layersync import LayerSync
from models import find_model
from training.checkpoint import read_checkpoint, save_checkpoint
from training.checks import layer_sync_settings
from training.config import OptimConfig, TrainConfig
from training.optimizer import make_optimizer
from transport import create_transport

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LATENTS = (4, 32, 32)


def seconds(work) -> float:
    """Wall time of work() with everything that it started on the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def set_precision(precision: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def matmul_rate(precision: str, repeats: int = 7) -> float:
    """FLOP/s of a large square matrix product, the median."""
    set_precision(precision)
    n = 8192 if DEVICE.type == "cuda" else 3072
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    a @ b
    return 2 * n**3 / statistics.median(seconds(lambda: a @ b) for _ in range(repeats))


class Step:
    """Training steps of one model on one batch of random latents, as train.py makes them."""

    def __init__(self, name: str, precision: str, compiled: bool, batch_size: int):
        set_precision(precision)
        torch.manual_seed(0)
        self.network = find_model(name)(input_size=LATENTS[1]).to(DEVICE)
        self.ema = deepcopy(self.network).eval().requires_grad_(False)
        if compiled:
            for block in self.network.blocks:
                block.compile()
        pairs, self.weight = layer_sync_settings(TrainConfig(model=name))
        self.sync = LayerSync(self.network.blocks, pairs)
        self.optimizer = make_optimizer(self.network, OptimConfig())
        self.update_ema = get_ema_multi_avg_fn(0.9999)
        self.transport, self.precision = create_transport(), precision
        self.x_1 = torch.randn(batch_size, *LATENTS, device=DEVICE)
        self.labels = torch.randint(1000, (batch_size,), device=DEVICE)

    def forward(self, regularised: bool) -> torch.Tensor:
        autocast = torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.precision == "bf16")
        with self.sync.capture() if regularised else nullcontext(), autocast:
            losses = self.transport.training_losses(self.network, self.x_1, dict(y=self.labels))
        loss = losses["loss"].mean()
        return loss + self.weight * self.sync.loss() if regularised else loss

    def __call__(self, regularised: bool) -> None:
        self.forward(regularised).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update_ema(list(self.ema.parameters()), list(self.network.parameters()), None)

    def flops(self) -> int:
        with FlopCounterMode(display=False) as counter:
            self.forward(regularised=False).backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()

    def memory(self, regularised: bool) -> int:
        """Bytes: the allocator's peak in a step (GPU), or what backward keeps (CPU)."""
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self(regularised)
            return torch.cuda.max_memory_allocated()
        kept = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.forward(regularised)
        parameters = {p.untyped_storage().data_ptr() for p in self.network.parameters()}
        loss.detach_()
        return sum(size for pointer, size in kept.items() if pointer not in parameters)


def measure(name: str, precision: str, compiled: bool, peak: float, c: Benchmark) -> list[dict]:
    """Two rows, vanilla and layer_sync, from alternating steps."""
    step = Step(name, precision, compiled, c.batch_size)
    flops = step.flops() if not compiled else Step(name, precision, False, c.batch_size).flops()
    variants = {"vanilla": False, "layer_sync": True}
    for _ in range(2):
        for regularised in variants.values():
            step(regularised)
    times = {variant: [] for variant in variants}
    for _ in range(c.repeats):
        for variant, regularised in variants.items():
            times[variant].append(seconds(lambda r=regularised: step(r)))
    ratios = [b / a for a, b in zip(times["vanilla"], times["layer_sync"], strict=True)]
    memory = {variant: step.memory(regularised) for variant, regularised in variants.items()}
    rows = []
    for variant, measured in times.items():
        median = statistics.median(measured)
        row = dict(
            model=name, precision=precision, compiled=compiled, loss=variant,
            images_per_second=c.batch_size / median, fraction_of_peak=flops / median / peak,
            memory_gb=memory[variant] / 1e9, seconds=measured,
        )  # fmt: skip
        if variant == "layer_sync":
            row["time_ratio"] = statistics.median(ratios)
            row["memory_ratio"] = memory["layer_sync"] / memory["vanilla"]
        rows.append(row)
    return rows


def checkpoint_times(name: str) -> dict:
    """Writing, flushed to the disk, and reading a complete checkpoint."""
    network = find_model(name)(input_size=LATENTS[1])
    weights = network.state_dict()
    moments = {k: {"exp_avg": v, "exp_avg_sq": v.clone()} for k, v in weights.items()}
    ema = {key: value.clone() for key, value in weights.items()}
    state = {"model": weights, "ema": ema, "opt": {"state": moments}, "step": 1}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0000001.pt"
        save = seconds(lambda: save_checkpoint(path, state))
        load = seconds(lambda: read_checkpoint(path))
        return dict(model=name, gb=path.stat().st_size / 1e9, save_s=save, load_s=load)


def print_tables(peaks: dict, rows: list[dict], checkpoints: list[dict]) -> None:
    for precision, rate in peaks.items():
        print(f"\nmatrix products, {precision}: {rate / 1e12:.3g} TFLOP/s", end="")
    print(
        "\n\n| model | precision | compiled | loss | images/s | of peak | GB | time | memory |"
        "\n|---|---|---|---|---|---|---|---|---|"
    )
    for r in rows:
        ratios = "| | " if "time_ratio" not in r else "| {time_ratio:.3f} | {memory_ratio:.3f} "
        print(
            f"| {r['model']} | {r['precision']} | {'yes' if r['compiled'] else 'no'} | {r['loss']} "
            f"| {r['images_per_second']:.3g} | {r['fraction_of_peak']:.0%} | {r['memory_gb']:.3f} "
            + ratios.format(**r)
            + "|"
        )
    if checkpoints:
        print("\n| checkpoint | GB | write s | read s |\n|---|---|---|---|")
    for r in checkpoints:
        print(f"| {r['model']} | {r['gb']:.2f} | {r['save_s']:.1f} | {r['load_s']:.1f} |")


def main(c: Benchmark) -> None:
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    print(f"{device}, torch {torch.__version__}, {torch.get_num_threads()} threads, {c}")
    peaks = {precision: matmul_rate(precision) for precision in c.precisions}
    compiled = {"no": [False], "yes": [True], "both": [False, True]}[c.compiled]
    cells = [(m, p, k) for m in c.models for p in c.precisions for k in compiled]
    rows = []
    for name, precision, compiles in tqdm(cells, unit="cell"):
        rows += measure(name, precision, compiles, peaks[precision], c)
    checkpoints = [checkpoint_times(name) for name in c.models] if c.checkpoints else []
    record = dict(device=device, torch=torch.__version__, matmul=peaks, batch_size=c.batch_size)
    Path(c.out).write_text(json.dumps(record | dict(steps=rows, checkpoints=checkpoints), indent=1))
    print_tables(peaks, rows, checkpoints)
    print(f"\nwritten to {c.out}")


if __name__ == "__main__":
    main(CONFIG)
