"""Images per second, waiting for data, and the share of a GPU's peak."""

import time
from types import SimpleNamespace

import pytest
import torch

from training.speed import MEASURED, Speed, peak_of, share_of_peak

ARCH = dict(name="SiT-XL/2", input_size=32, in_channels=4, num_classes=1000, learn_sigma=True)


def test_waiting_is_counted_apart_from_working():
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=4)
    speed = Speed(accelerator, batch=8, precision="fp32", arch=ARCH, step=10)

    def slow():
        for i in range(2):
            time.sleep(0.05)
            yield i

    seen = []
    for batch in speed.waiting(slow()):
        seen.append(batch)
        time.sleep(0.1)
    figures = speed.since(12)
    assert seen == [0, 1] and set(figures) <= set(MEASURED) and "share_of_peak" not in figures
    assert 0.05 <= figures["seconds_waiting_for_data"] < figures["seconds_per_step"] - 0.09
    assert figures["images_per_second"] == pytest.approx(8 / figures["seconds_per_step"], rel=0.01)
    each = figures["images_per_second_per_device"]
    assert each == pytest.approx(figures["images_per_second"] / 4, abs=0.06)
    assert speed.operations == pytest.approx(6 * 118.6e9, rel=0.01)  # Gflops of the SiT paper, x 6
    speed.since(13)
    assert speed.waited == 0


def test_peaks_are_of_known_gpus_and_precisions():
    assert peak_of("NVIDIA H100 80GB HBM3", "bf16") == peak_of("NVIDIA H200", "bf16") == 989e12
    assert peak_of("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_of("NVIDIA A100-SXM4-40GB", "tf32") == 156e12
    assert peak_of("NVIDIA A400", "bf16") is None and peak_of("", "fp32") is None
    assert share_of_peak(1000, 3 * 10**11, 989e12) == pytest.approx(0.3033, abs=1e-4)
