"""Compilation of a SiT: which graphs there are, and that they compute what eager does."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from layersync import LayerSync
from layersync.capture import BlockRecorder
from models import SiT
from models.compiling import (
    GRAPHS,
    LIMITS,
    allow_graphs,
    can_compile,
    check_can_compile,
    compile_network,
    compiled,
)

DEPTH = 12


@pytest.fixture
def counter(monkeypatch):
    from torch._dynamo.testing import CompileCounterWithBackend  # and half a second of others

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr("models.compiling.BACKEND", counter)
    yield counter
    torch._dynamo.reset()


def make_network() -> SiT:
    """A tiny SiT of as many blocks as SiT-B has, none of which is the identity."""
    torch.manual_seed(0)
    network = SiT(4, 2, 1, hidden_size=16, depth=DEPTH, num_heads=2, num_classes=3)
    for block in (*network.blocks, network.final_layer):
        torch.nn.init.normal_(block.adaLN_modulation[1].weight, std=0.1)
    torch.nn.init.normal_(network.final_layer.linear.weight, std=0.1)
    return network.train()


def inputs(count: int):
    generator = torch.Generator().manual_seed(count)
    drop = torch.zeros(count, dtype=torch.bool)
    x = torch.randn(count, 1, 4, 4, generator=generator)
    return x, torch.rand(count, generator=generator), torch.arange(count) % 3, drop


def gradients(network: SiT, pairs: list, count: int = 4) -> tuple:
    network.zero_grad()
    sync = LayerSync(list(network.blocks), pairs)
    with sync.capture():
        out = network(*inputs(count))
    loss = out.square().mean() + sync.loss()
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("recomputed", [0, 1, 2])
def test_five_captured_pairs_add_no_graph_and_change_rounding_only(counter, recomputed):
    """With every block recomputed, some, or none; ten blocks are more than dynamo's limit."""
    pairs = [(k, k + 5) for k in range(2, 7)]
    network = make_network()
    expected = gradients(copy.deepcopy(network), pairs)
    compile_network(network)
    network.checkpoint_activations = recomputed
    for _ in range(2):
        torch.testing.assert_close(gradients(network, pairs), expected, rtol=1e-4, atol=1e-6)
    assert counter.frame_count == 2  # all blocks share one, the final layer has the other


def test_however_many_blocks_are_captured_there_is_one_graph_of_blocks(counter):
    """From none to all of twelve, by one recorder after the other; nothing is compiled again."""
    network = make_network()
    compile_network(network)
    for count in range(DEPTH + 1):
        recorder = BlockRecorder({k + 1: network.blocks[k] for k in range(count)})
        with recorder.recording():
            loss = network(*inputs(4)).square().mean()
        tokens = recorder.take()
        assert sorted(tokens) == list(range(1, count + 1))
        for (captured,) in tokens.values():
            loss = loss + captured.square().mean()
        loss.backward()
        assert counter.frame_count == 2, f"{count} captured"


def test_evaluation_at_other_batch_sizes_stays_within_the_graphs_that_are_kept(counter):
    """A moving average beside the network, its batches of five sizes; nothing falls back."""
    network = make_network()
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    for each in (network, ema):
        compile_network(each)
    expected = gradients(copy.deepcopy(network), [(2, 8)])
    frames = []
    for count in (2, 3, 4, 5, 6):
        gradients(network, [(2, 8)])
        with torch.no_grad():
            ema(*inputs(count)[:3])
        frames.append(counter.frame_count)
    assert frames[2:] == [frames[2]] * 3 and frames[-1] <= GRAPHS
    torch.testing.assert_close(gradients(network, [(2, 8)]), expected, rtol=1e-4, atol=1e-6)


def test_the_limit_is_raised_and_never_lowered():
    name = next(name for name in LIMITS if hasattr(torch._dynamo.config, name))
    with torch._dynamo.config.patch(name, 8):
        allow_graphs(16)
        assert getattr(torch._dynamo.config, name) == 16
        allow_graphs(4)
        assert getattr(torch._dynamo.config, name) == 16


class Head(torch.nn.Linear):
    """torch 2.6 leaves modules of its own, such as Linear, as they are."""

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight, self.bias)


def test_functions_are_wrapped_and_modules_stay_the_same_object(counter):
    double = compiled(lambda x: 2 * x)
    assert torch.equal(double(torch.arange(3)), torch.tensor([0, 2, 4]))
    head = Head(2, 2)
    assert compiled(head) is head and list(head.state_dict()) == ["weight", "bias"]
    x = torch.randn(3, 2)
    torch.testing.assert_close(head(x), torch.nn.functional.linear(x, head.weight, head.bias))
    assert counter.frame_count == 2


def test_in_ddp_a_block_stays_one_graph(counter):
    """dynamo would split it where the first bucket, of 1 MiB, is full; its MLP alone has more."""
    torch.manual_seed(0)
    network = SiT(4, 2, 1, hidden_size=256, depth=2, num_heads=2, num_classes=3).train()
    assert network.blocks[0].mlp.fc2.weight.nbytes == 2**20
    compile_network(network)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(network, gradient_as_bucket_view=True)
        for _ in range(2):
            wrapped(*inputs(2)).square().mean().backward()
    finally:
        dist.destroy_process_group()
    assert counter.frame_count == 2  # that of blocks, that of the final layer


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        ("", None),
        ("triton", "the package triton"),
        ("gcc", "a C compiler"),
        ("header", "Python's header files"),
        ("capability", "a GPU of compute capability 7.0"),
    ],
)
def test_compilation_needs_triton_a_compiler_and_a_gpu_that_it_knows(
    monkeypatch, tmp_path, without, missing
):
    monkeypatch.delenv("CC", raising=False)
    header = tmp_path / "Python.h"
    if without != "header":
        header.touch()
    capability = (6, 1) if without == "capability" else (9, 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr(
        "models.compiling.importlib.util.find_spec", lambda name: name != without or None
    )
    monkeypatch.setattr("models.compiling.shutil.which", lambda name: without != "gcc" or None)
    monkeypatch.setattr("models.compiling.python_header", lambda: header)
    assert can_compile() is (missing is None)
    if missing is None:
        return check_can_compile()
    with pytest.raises(ValueError, match=f"--compile: on this GPU it takes {missing}"):
        check_can_compile()
