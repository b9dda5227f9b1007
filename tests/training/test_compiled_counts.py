"""What compiled graphs ask of a GPU, as inductor plans them (scripts/benchmarks/counted_graphs.py).

Bytes are in closed form: a tensor of tokens (N, T, D) is read or written so many times. Limits of a
whole step are the best that was counted so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._triton import has_triton

from layersync.alignment import sample_cosine
from models.sit import FinalLayer, SiTBlock
from scripts.benchmarks.counting import count_step
from training.config import EngineConfig

if TYPE_CHECKING:
    from scripts.benchmarks.counted_graphs import Kernel

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith("2.15."),
    reason="each version of torch has its own inductor, which these tests read the plans of",
)
N, T, D = 4, 256, 64
NUMBERS = N * T * D
MODULATION = 2 * N * 6 * D  # bytes of what adaLN's layer gives a block, in bf16


@pytest.fixture
def planned():
    from scripts.benchmarks.counted_graphs import PlannedGraphs  # imports inductor, 3 s

    torch._dynamo.reset()
    here = has_triton()  # torch remembers what it is answered
    yield PlannedGraphs(lambda kernels, run: run())
    assert has_triton() == here
    torch._dynamo.reset()


def norms(kernels: list[Kernel]) -> list[Kernel]:
    return [k for k in kernels if k.own and "var_mean.correction" in k.operations]


@pytest.mark.slow
def test_a_layer_norm_and_its_modulation_are_one_kernel_that_reads_tokens_once(planned):
    with FakeTensorMode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        block, final = SiTBlock(D, 2, 4.0), FinalLayer(D, 2, 8)
        for module in (block, final):
            module.compile(backend=planned)
        x, c = torch.randn(N, T, D), torch.randn(N, D)
        assert final(block(x, c), c).shape == (N, T, 32)
    whole, last = planned.graphs
    before_attention, before_mlp = norms(whole)
    assert before_attention.written == before_mlp.written == 2 * NUMBERS  # in bf16, for a product
    assert before_attention.read <= 4 * NUMBERS + MODULATION
    # with the residual sum of attention, in bf16, times its gate
    assert before_mlp.read <= (4 + 2) * NUMBERS + MODULATION
    (before_output,) = norms(last)
    assert before_output.read <= 4 * NUMBERS + MODULATION / 3
    assert before_output.written == 2 * NUMBERS
    others = [k for k in whole if k.own and k not in norms(whole) and k.traffic > 4 * NUMBERS]
    assert len(others) == 2  # GELU, and the residual sum of the MLP
    assert sum(not k.own for k in whole) == 6  # four products, adaLN's, attention


@pytest.mark.slow
def test_the_cosine_of_layer_sync_reads_its_tokens_twice_and_makes_no_copies(planned):
    """Both tensors are read forward and backward, and the student's gradient is written."""
    with FakeTensorMode():
        student, teacher = torch.randn(N, T, D, requires_grad=True), torch.randn(N, T, D)
        torch.compile(sample_cosine, backend=planned)(student, teacher).mean().backward()
    forward, backward = planned.graphs
    small = 16 * 4 * N * T  # numbers of tokens
    assert sum(k.read for k in forward) <= 2 * 4 * NUMBERS + small
    assert sum(k.written for k in forward) <= small
    assert sum(k.read for k in backward) <= 2 * 4 * NUMBERS + small
    assert [k.written for k in backward] == [4 * NUMBERS]


@pytest.mark.slow
def test_a_compiled_step_of_xl_and_what_layer_sync_adds_to_it():
    engine = EngineConfig(compile=True)
    vanilla, sync = (
        count_step("SiT-XL/2", loss, 32, engine=engine) for loss in ("vanilla", "layer_sync")
    )
    assert vanilla.launches <= 1783 and vanilla.traffic <= 75.12e9 and vanilla.saved <= 10.95e9
    assert sync.traffic <= 1.006 * vanilla.traffic and sync.saved <= 1.0001 * vanilla.saved
    assert sync.launches <= vanilla.launches + 22
    update = vanilla.parts["forward and update"].kernels["one_pass"]
    assert update == 1
    for step in (vanilla, sync):
        assert all(dtypes == {torch.float32} for dtypes in step.dtypes.values())
