"""The benchmark's training steps, on the smallest model."""

from scripts.benchmark import Benchmark
from scripts.benchmarks.steps import measure


def test_rows_compare_each_loss_with_vanilla():
    c = Benchmark(losses=("layer_sync", "dispersive", "sra"), repeats=1, clock="cpu")
    vanilla, *rows = measure(c, "SiT-Ti/2", 2, "fp32", False, peak=1e12)
    assert vanilla["loss"] == "vanilla" and "time_ratio" not in vanilla
    assert [row["loss"] for row in rows] == ["layer_sync", "dispersive", "sra"]
    layer_sync, dispersive, sra = rows
    assert all(row["time_ratio"] > 0 and row["memory_ratio"] >= 1 for row in rows)
    assert vanilla["parameters"] == layer_sync["parameters"] == dispersive["parameters"]
    assert sra["parameters"] - vanilla["parameters"] == 64 * 128 + 128 + 128 * 64 + 64  # its head
