"""What a step asks of a GPU, counted on fake tensors (scripts/benchmarks/counting.py).

Limits are the best that was counted so far: who lowers a count lowers its limit, and nothing raises
one unseen. Kernels are those of eager steps in bf16.
"""

from functools import cache

import pytest
import torch

from scripts.benchmarks.counting import Counted, count_step

# operations of SiT-Ti/2 that are not views, the update and the norm of the gradients included
LAUNCHES = {
    "vanilla": 958,
    "layer_sync": 1003,
    "multiple_sync": 1036,
    "dispersive": 1004,
    "sra": 1317,
    "repa": 1040,
}
# bytes of SiT-Ti/2, 4 images
TRAFFIC, SAVED = 223.3e6, 27.45e6


own_decompositions = pytest.mark.skipif(
    not torch.__version__.startswith("2.15."),
    reason="each version of torch decomposes operations in its own way",
)
# torch 2.6 asks the driver even for a fake tensor
fakes_gpus = pytest.mark.skipif(
    torch.__version__.startswith("2.6.") and not torch.cuda.is_available(),
    reason="this version of torch has no fake CUDA tensors without a GPU",
)


@cache
def counted(loss: str, device: str, model: str = "SiT-Ti/2", batch: int = 4) -> Counted:
    return count_step(model, loss, batch, device)


@fakes_gpus
@pytest.mark.parametrize("loss", LAUNCHES)
def test_one_copy_brings_a_step_and_nobody_waits_for_the_device(loss):
    step = counted(loss, "cuda")
    (size, waited), *others = step.copies
    assert others == [] and not waited and step.waits == []
    # moments, labels, mirrored, dropped, t, noise, x_0, each at a multiple of 64 bytes
    own = 4 * (4 * 4096 * 2 + 2 * 4096 * 4) + 4 * 64
    more = {"sra": 64, "repa": 4 * 256 * 768 * 2}.get(loss, 0)
    assert size == own + more


@own_decompositions
@pytest.mark.parametrize("loss", LAUNCHES)
def test_a_step_starts_no_more_kernels_than_it_did(loss):
    assert counted(loss, "cpu").launches <= LAUNCHES[loss]


@pytest.mark.parametrize("loss", LAUNCHES)
def test_losses_weights_averages_and_moments_are_float32(loss):
    step = counted(loss, "cpu")
    assert set(step.dtypes) == {"logged", "weights", "ema", "optimizer"}
    for name, dtypes in step.dtypes.items():
        assert dtypes == {torch.float32}, name


def test_traffic_and_memory_of_a_step_and_what_layer_sync_adds():
    vanilla, sync = counted("vanilla", "cpu"), counted("layer_sync", "cpu")
    assert vanilla.traffic <= TRAFFIC and vanilla.saved <= SAVED
    tokens = 4 * 256 * 64 * 4  # bytes of a block's output
    assert sync.traffic - vanilla.traffic <= 25 * tokens  # times that one is read or written
    assert sync.saved - vanilla.saved <= 0.07 * tokens  # a number for each token, no copies


@pytest.mark.slow
def test_of_xl_layer_sync_adds_two_percent_of_traffic_and_one_of_memory_at_most():
    vanilla, sync = (counted(loss, "cpu", "SiT-XL/2", 32) for loss in ("vanilla", "layer_sync"))
    assert vanilla.launches <= 2998 and vanilla.traffic <= 129.31e9 and vanilla.saved <= 14.17e9
    assert sync.traffic <= 1.02 * vanilla.traffic and sync.saved <= 1.01 * vanilla.saved


@fakes_gpus
def test_the_counters_see_copies_waits_and_traffic():
    """The counts of these operations are known."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from scripts.benchmarks.counted_operations import Counting

    ahead = torch.zeros(100)
    with FakeTensorMode(allow_non_fake_inputs=True), Counting() as counting:
        x = ahead.to("cuda", non_blocking=True)
        y = ahead.to("cuda")
        z = (x + y).view(10, 10)  # reads 800 bytes, writes 400; a view is free
        z.mul_(2)  # reads and writes 400
        z @ z  # a product: its traffic is not elementwise
        z.cpu()
    counts = counting.parts[counting.part]
    assert counts.copies == [(400, False), (400, True)]
    assert counts.kernels["add"] == counts.kernels["mul_"] == counts.kernels["mm"] == 1
    assert "view" not in counts.kernels
    assert counts.waits == ["_to_copy"]
