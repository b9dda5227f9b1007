"""Speed of a run: images per second, waiting for data, memory, and the share of the GPU's peak.

The share of peak is model FLOPs utilization: the operations that forward and backward pass of the
network need in theory, over the peak that the GPU's maker publishes (dense, of the precision in
use). Recomputed activations, the optimizer, the codec, encoders and heads of regularisers do not
count. GPUs that are not in `PEAKS` have no such number.
"""

import re
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from models.forward_cost import BACKWARD, forward_operations
from training.config import Precision

MEASURED = (  # numbers of a log that differ from run to run
    "images_per_second", "images_per_second_per_device", "seconds_per_step",
    "seconds_waiting_for_data", "gpu_memory_gb", "share_of_peak",
)  # fmt: skip
PEAKS: tuple[tuple[str, dict[str, float]], ...] = (  # FLOP/s by NVIDIA's data sheets, dense
    (r"H100 PCIe", {"bf16": 756e12, "tf32": 378e12, "fp32": 51e12}),
    (r"H100 NVL", {"bf16": 835e12, "tf32": 417e12, "fp32": 60e12}),
    (r"H100|H200|GH200", {"bf16": 989e12, "tf32": 494e12, "fp32": 67e12}),
    (r"A100|A800", {"bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12}),
    (r"L40S", {"bf16": 362e12, "tf32": 183e12, "fp32": 91.6e12}),
    (r"A40\b", {"bf16": 150e12, "tf32": 74.8e12, "fp32": 37.4e12}),
)
Item = TypeVar("Item")


class Speed:
    """A run's clock: what it measured since the last time it was asked.

    Args:
        accelerator: of the process group.
        batch: samples of a step over all processes.
        precision: the one in use.
        arch: arguments of `build_network`.
        step: steps done.
    """

    def __init__(self, accelerator, batch: int, precision: Precision, arch: dict, step: int):
        self.device, self.processes = accelerator.device, accelerator.num_processes
        self.batch, self.step = batch, step
        self.started, self.waited = time.monotonic(), 0.0
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        self.peak = peak_of(name, precision)
        forward = forward_operations(arch["name"], arch["input_size"], arch["in_channels"])
        self.operations = (1 + BACKWARD) * forward  # for an image

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield batches, and count the time until each is there."""
        iterator, nothing = iter(batches), object()
        while True:
            start = time.monotonic()
            batch = next(iterator, nothing)
            self.waited += time.monotonic() - start
            if batch is nothing:
                return
            yield batch  # type: ignore[misc]

    def since(self, step: int) -> dict[str, float]:
        """Return the numbers of the steps from the last call to `step`, of the first process."""
        now = time.monotonic()
        seconds, steps = now - self.started, step - self.step
        speed = steps * self.batch / seconds
        numbers = {
            "images_per_second": round(speed, 1),
            "images_per_second_per_device": round(speed / self.processes, 1),
            "seconds_per_step": seconds / steps,
            "seconds_waiting_for_data": self.waited / steps,
        }
        if self.device.type == "cuda":  # since the start of the run
            numbers["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        if self.peak:
            each = speed / self.processes
            numbers["share_of_peak"] = share_of_peak(each, self.operations, self.peak)
        self.started, self.step, self.waited = now, step, 0.0
        return numbers


def share_of_peak(images_per_second: float, operations: int, peak: float) -> float:
    """Return the share of `peak` FLOP/s that images of so many operations take."""
    return images_per_second * operations / peak


def peak_of(device: str, precision: Precision) -> float | None:
    """Return the published peak of a GPU by its name in FLOP/s, None where it is not known."""
    for pattern, peaks in PEAKS:
        if re.search(pattern, device):
            return peaks.get(precision)
    return None
