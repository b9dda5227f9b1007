"""The rows of hours in scripts/benchmark.py: rates of small networks, multiplied."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from launching import save_tiny_vae

from models import VAECodec, find_model
from scripts.benchmark import Benchmark, main
from scripts.benchmarks import costs, evaluation_stages, steps
from scripts.benchmarks.timing import Deadline

SMALL = Benchmark(
    models=("SiT-Ti/2:2",), sampling_models=("SiT-Ti/2:2",), cache_batch=1, repeats=1, clock="cpu",
    precisions=("bf16",),
)  # fmt: skip


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small autoencoder, and compilation that captures the graph without lowering it."""
    vae = save_tiny_vae(tmp_path / "vae")
    monkeypatch.setattr(costs, "random_codec", lambda folder, **bf16: VAECodec(vae, **bf16))
    monkeypatch.setattr("models.compiling.BACKEND", "eager")
    yield vae
    AcceleratorState._reset_state()  # it keeps a process's first precision


@pytest.mark.slow
def test_hours_of_presets_follow_from_their_evaluations(small):
    rows = list(costs.presets(replace(SMALL, precisions=("bf16", "fp32")), Deadline()))
    assert {row["how"] for row in rows} == {"bf16, compiled", "fp32"}
    assert len(rows) == 2 * 6  # all but dopri5, which chooses its own steps
    for row in rows:
        assert row["hours_50k"] == pytest.approx(50_000 / row["images_per_second"] / 3600)
    passes = {row["preset"]: row for row in rows if row["how"] == "fp32"}
    half, whole = passes["paper-sde-em250"], passes["sit-sde-cfg1.5"]
    assert whole["images_per_second"] < half["images_per_second"]


@pytest.mark.slow
def test_caching_stall_and_options(small, monkeypatch):
    monkeypatch.setattr(steps, "OPTIONS", steps.OPTIONS[1:2])
    exact, rounded = costs.caching(SMALL, Deadline())
    for row in (exact, rounded):
        hours = 2 * 1_281_167 / row["images_per_second"] / 3600
        assert row["hours_imagenet"] == pytest.approx(hours)
    (stall,) = costs.stall(SMALL, Deadline())
    parameters = sum(p.numel() for p in find_model("SiT-Ti/2")(input_size=32).parameters())
    assert stall["gb"] == pytest.approx(16 * parameters / 1e9) and stall["stall_s"] > 0
    rows = list(steps.run_options(SMALL, {"bf16": 1e12}, Deadline()))
    assert {row["options"] for row in rows} == {"bf16 residual"}
    plain = steps.measure(SMALL, "SiT-Ti/2", 2, "bf16", False, 1e12)
    assert rows[0]["memory_gb"] < plain[0]["memory_gb"]  # of tokens kept in half the bytes


def test_scoring_extrapolates_to_50000(monkeypatch):
    timing = evaluation_stages.Timing("", 2.0, 100)
    monkeypatch.setattr(evaluation_stages, "extraction", lambda b: timing)
    monkeypatch.setattr(evaluation_stages, "root", lambda b: timing)
    assert [row["seconds_50k"] for row in costs.scoring(SMALL, Deadline())] == [200, 200]


def test_a_cell_that_does_not_fit_is_a_row(monkeypatch):
    def full(*args, **settings):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(steps, "measure", full)
    (row,) = steps.run(SMALL, {"bf16": 1e12}, Deadline())
    assert row["note"] == "not measured: it does not fit in this memory"
    assert row["model"] == "SiT-Ti/2"


def test_a_cell_that_fails_leaves_the_others_and_ends_the_command_with_an_error(
    tmp_path, monkeypatch, capfd
):
    def measured(c, name, *rest):
        if name == "SiT-Ti/2":
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED |\n when calling")
        return [dict(loss="vanilla", images_per_second=2.0)]

    monkeypatch.setattr(steps, "measure", measured)
    monkeypatch.setattr("scripts.benchmark.matmul_peaks", lambda *how: {"fp32": 1e12})
    c = Benchmark(
        parts=("steps",), models=("SiT-Ti/2:2", "SiT-S/2:2"), precisions=("fp32",),
        out=str(tmp_path / "rows.json"),
    )  # fmt: skip
    with pytest.raises(SystemExit, match="1 of the rows failed"):
        main(c)
    bad, good = json.loads((tmp_path / "rows.json").read_text())["steps"]
    assert bad["note"] == "failed: RuntimeError: CUBLAS_STATUS_ALLOC_FAILED / when calling"
    assert (good["model"], good["images_per_second"]) == ("SiT-S/2", 2.0)
    assert "Traceback" in capfd.readouterr().err
