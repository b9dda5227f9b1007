"""The sampling and npz parts of scripts/benchmark.py count what they say they count."""

import mmap
import shutil

import numpy as np
import pytest

from scripts.benchmark import Benchmark
from scripts.benchmarks import assembly
from scripts.benchmarks.sampling import CASES, Runs


def test_bare_evaluations_are_as_many_and_as_large_as_the_solvers():
    """Evaluations and passes in closed form: two steps of Euler, one of Heun, a guided half."""
    runs, seen = Runs("SiT-Ti/2", 2, "fp32", compiled=False), []
    runs.network.model.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    expected = {
        ("ODE euler", "none"): [2, 2],
        ("ODE euler", "1.5"): [4, 4],
        ("ODE euler", "1.5 on [0.3, 1]"): [2, 4],
        ("ODE heun2", "none"): [2, 2],
        ("SDE Euler", "none"): [2, 2],
    }
    for case in CASES:
        if case.solver == "ODE dopri5":  # chooses its own steps
            continue
        seen.clear()
        counts = runs.evaluations(case)
        batches = list(seen)
        assert batches == expected.pop((case.solver, case.guidance))
        assert counts == (len(batches), sum(batches) // 2)
        seen.clear()
        runs.bare(*counts)
        assert sorted(seen) == sorted(batches)
    assert not expected


def test_a_costless_network_leaves_the_solver(monkeypatch):
    runs = Runs("SiT-Ti/2", 2, "fp32", compiled=False)
    monkeypatch.setattr(runs.network, "model", None)  # not to be asked
    for case in CASES:
        assert 0 < runs.solver_seconds(case, repeats=1) < 1


def test_models_are_written_with_their_batch_size():
    assert Benchmark(sampling_models=("SiT-S/2:16",)).sizes("sampling_models") == [("SiT-S/2", 16)]
    with pytest.raises(ValueError, match="--sampling-models SiT-S/2: write MODEL:BATCH"):
        Benchmark(sampling_models=("SiT-S/2",)).sizes("sampling_models")


@pytest.mark.skipif(not assembly.PROC.exists(), reason="peak memory is read from Linux's /proc")
def test_assembly_is_of_all_images(tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "SHAPE", (8, 8, 3))
    row = assembly.measure(tmp_path, 40)
    with np.load(tmp_path / "samples.npz") as archive:
        images = archive["arr_0"]
    drawn = np.random.default_rng(0).integers(256, size=(32, 8, 8, 3), dtype=np.uint8)
    assert images.shape == (40, 8, 8, 3) and np.array_equal(images[:32], drawn)
    assert row["images"] == 40 and row["assemble_growth_mb"] >= 0


@pytest.mark.skipif(not assembly.PROC.exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_is_seen_and_forgotten():
    before = assembly.start_watching_memory()
    with mmap.mmap(-1, 10**8) as block:  # new pages: malloc may have so much at hand
        np.frombuffer(block, np.uint8)[:] = 1
    growth = assembly.peak_memory() - before
    assert 0.9e8 < growth < 1.5e8
    before = assembly.start_watching_memory()
    assert assembly.peak_memory() - before < 1e7


def test_a_disk_that_is_too_small_is_said_first(monkeypatch):
    usage = type("Usage", (), {"free": 10**10})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(assembly, "PROC", assembly.Path("/"))
    with pytest.raises(ValueError, match=r"--npz-images 50000: 19.7 GB needed .* 10 GB free"):
        assembly.check(Benchmark())
    assembly.check(Benchmark(npz_images=20_000))
    monkeypatch.setattr(assembly, "PROC", assembly.Path("/none"))
    with pytest.raises(ValueError, match="leave npz out"):
        assembly.check(Benchmark())
