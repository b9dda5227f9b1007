"""`scripts/benchmark.py --peer`: modules of a checkout beside ours of the same names, and rows."""

import sys

import pytest
import torch

from scripts.benchmark import TABLE, Benchmark, check, main
from scripts.benchmarks import costs, measured_step, peers
from scripts.benchmarks.timing import Deadline

# An original made of our own modules, under the names that SiT's have.
MODELS = "from models import SiT_models\nNAME = __name__\n"
TRANSPORT = "from .parts import Sampler, create_transport\n"
PARTS = "from transport import Sampler, create_transport\n"


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "original"
    (root / "transport").mkdir(parents=True)
    (root / "models.py").write_text(MODELS)
    (root / "transport" / "__init__.py").write_text(TRANSPORT)
    (root / "transport" / "parts.py").write_text(PARTS)
    return root


def test_modules_of_a_checkout_leave_ours_alone(checkout):
    ours = sys.modules["models"], sys.modules["transport"]
    theirs = peers.import_aside(checkout, "models")
    assert theirs.NAME == theirs.__name__ != "models"
    package = peers.import_aside(checkout, "transport")
    assert package.Sampler is ours[1].Sampler  # through its own parts.py
    assert (sys.modules["models"], sys.modules["transport"]) == ours


def test_checkouts_are_told_apart(checkout, tmp_path):
    assert peers.find_peer(str(checkout)) == "SiT"
    (checkout / "models.py").write_text(MODELS + "def SiT(gt_encoder_depth): ...\n")
    assert peers.find_peer(str(checkout)) == "LayerSync"
    (tmp_path / "models").mkdir()
    for name in ("models/sit.py", "loss.py"):
        (tmp_path / name).touch()
    assert peers.find_peer(str(tmp_path)) == "REPA"
    with pytest.raises(ValueError, match=r"--peer .*: not a checkout of SiT, LayerSync or REPA"):
        peers.find_peer(str(checkout / "transport"))


def test_a_checkout_that_is_ours_keeps_as_much_memory(checkout):
    c = Benchmark(
        parts=("peers",), peer=(str(checkout),), peer_models=("SiT-Ti/2:2",), precisions=("fp32",),
        repeats=1, clock="cpu",
    )  # fmt: skip
    training, sampling = peers.run(c, Deadline())
    assert (training["step"], sampling["step"]) == ("training", "sampling")
    assert training["memory_ratio"] == pytest.approx(1, rel=0.02)
    for row in (training, sampling):
        assert row["lowest"] == row["highest"] == pytest.approx(row["time_ratio"])
        assert row["time_ratio"] == pytest.approx(row["ours_ms"] / row["peer_ms"])


def test_what_has_no_time_left_is_said_and_kept(tmp_path, capfd):
    c = Benchmark(
        parts=("caching", "stall"), models=("SiT-Ti/2:2",), minutes=1e-6,
        out=str(tmp_path / "rows.json"),
    )  # fmt: skip
    main(c)
    assert capfd.readouterr().out.count("not measured: no time left") == 3
    assert (tmp_path / "rows.md").read_text().count("not measured: no time left") == 3


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("--peer FOLDER", dict(parts=("peers",))),
        ("--peer FOLDER", dict(peer=("anywhere",))),
        ("--minutes 0", dict(minutes=0.0)),
        ("--models SiT-S/2: write MODEL:BATCH", dict(models=("SiT-S/2",))),
        ("SiT-Q/2", dict(models=("SiT-Q/2:2",))),
    ],
)
def test_what_cannot_be_measured_is_refused(message, settings):
    with pytest.raises(ValueError, match=message):
        check(Benchmark(**{"parts": ("steps",), **settings}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the table is measured")
def test_the_table_needs_a_gpu():
    with pytest.raises(ValueError, match="--table: its rows need a GPU"):
        check(Benchmark(table=True))
    assert list(TABLE.values()) == sorted(TABLE.values())  # parts begin in this order


def test_a_gpu_is_not_measured_by_processor_time(monkeypatch):
    monkeypatch.setattr("scripts.benchmark.DEVICE", torch.device("cuda"))
    with pytest.raises(ValueError, match="--clock cpu: a GPU's work takes no processor time"):
        check(Benchmark(parts=("steps",), clock="cpu"))


def test_evaluations_of_presets():
    """Heun: two for each of 249 steps. Euler-Maruyama: one for each, guided ones counted twice."""
    assert costs.evaluations("paper-ode-heun250") == (498, 498)
    nfe, passes = costs.evaluations("sit-sde-em250")
    assert nfe == passes and 249 <= nfe <= 250
    assert costs.evaluations("sit-sde-cfg1.5") == (nfe, 2 * nfe)
    guided = costs.evaluations("repa-sde-interval")[1] - nfe
    assert guided / nfe == pytest.approx(0.7, abs=0.05)


def test_flops_are_those_of_the_layers():
    """Twice the weights of each linear map times its inputs, and thrice for a whole step."""
    batch, tokens, width, depth = 2, 256, 64, 8  # SiT-Ti/2
    linear = 12 * width * width * tokens * depth + tokens * (16 * width + 32 * width)
    attention = 2 * tokens * tokens * width * depth
    conditions = 6 * width * width * depth + 2 * width * width + 256 * width + width * width
    forward = 2 * batch * (linear + attention + conditions)
    # the first layers have no gradient of their inputs
    assert measured_step.step_flops("SiT-Ti/2", batch) == pytest.approx(3 * forward, rel=0.02)


def test_memory_of_a_step_on_a_gpu_leaves_out_the_networks_beside_it(checkout, monkeypatch):
    """AdamW's two moments, weights and average; originals keep gradients, too. 4 bytes a number."""
    peer = peers.Peer(str(checkout), "SiT-Ti/2", 2, "fp32")
    ours = peers.our_steps(peer, "SiT-Ti/2", 2, [False])["eager"]
    peer(), ours("vanilla")
    every, frozen = sum(p.numel() for p in peer.network.parameters()), 256 * 64
    learned, steps = every - frozen, len(peer.optimizer.state)  # a count for each parameter
    assert ours.kept("vanilla") == 4 * (2 * every + 2 * learned + steps)
    optimizers = [peer.optimizer]
    kept = measured_step.kept_bytes((peer.network, peer.ema), optimizers)
    assert kept == 4 * (2 * every + 3 * learned + steps)
    # a GPU with 100 bytes, which a step raises to 130 at most
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda: 100)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 130)
    assert measured_step.peak_of_one(lambda: None, kept) == kept + 30
