"""The kernel of a step, interpreted, against torch's AdamW and average in turn: a program.

    TRITON_INTERPRET=1 python tests/training/interpreted_step.py

Triton reads that variable when it is imported, so the test has a process of its own for it.
"""

# ruff: noqa: E402 (Triton is imported again first)
import sys

# a forked process has imported it already, without that variable; its compiled part stays
for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
    if not name.startswith("triton._C"):
        del sys.modules[name]

from copy import deepcopy

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from models import SiT
from training.config import EngineConfig, OptimConfig
from training.one_pass import OnePass
from training.parallel import Parallel, can_shard
from training.update import Update

SHAPES = (33, 65), (7,), (4096, 3), (1,)


class Weights:
    """Parameters, their average and their optimizer; the same ones each time."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.parameters = [nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]
        self.averages = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-2, weight_decay=0.1, fused=True)

    def step(self, gradients, scale):
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = scale * g.float()
        self.optimizer.step()
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - 0.9)


def compare(half: bool, scale: float | None) -> None:
    """Make five steps both ways, with and without a copy in bf16 and a factor of the gradients."""
    ours, theirs = Weights(), Weights()
    copies = [nn.Parameter(p.detach().bfloat16()) for p in ours.parameters] if half else []
    step, factor = None, None if scale is None else torch.tensor(scale)
    for i in range(5):
        gradients = [torch.randn(s, generator=torch.Generator().manual_seed(i)) for s in SHAPES]
        gradients = [g.bfloat16() for g in gradients] if half else gradients
        theirs.step(gradients, scale or 1)
        if step is None:  # the first step makes the optimizer's state
            ours.step(gradients, scale or 1)
            step = OnePass(ours.optimizer, ours.averages, 0.9, copies)
            continue
        for p, g in zip(copies or ours.parameters, gradients, strict=True):
            p.grad = g
        norm = torch.cat([g.float().flatten() for g in gradients]).norm()
        torch.testing.assert_close(step(factor), norm, rtol=1e-5, atol=0)
        for group in ours.optimizer.param_groups, theirs.optimizer.param_groups:
            group[0]["lr"] = 1e-2 / (i + 1)
    close = dict(rtol=1e-6, atol=1e-6)
    for p, q in zip(ours.parameters, theirs.parameters, strict=True):
        torch.testing.assert_close(p, q, **close)
        torch.testing.assert_close(ours.optimizer.state[p], theirs.optimizer.state[q], **close)
    for p, q in zip(ours.averages, theirs.averages, strict=True):
        torch.testing.assert_close(p, q, **close)
    for copy, p in zip(copies, ours.parameters, strict=False):
        torch.testing.assert_close(copy.float(), p.detach(), rtol=2**-7, atol=0)


def compare_updates(half: bool, limit: float | None) -> None:
    """Update a network three times both ways: weights, averages and norms are the same."""
    accelerator, norms = Accelerator(cpu=True), []
    engine = EngineConfig(precision="bf16", bf16_weights=half)
    updates = []
    for fuses in (False, True):
        torch.manual_seed(0)
        network = SiT(4, hidden_size=32, depth=1, num_heads=2, num_classes=3)
        parallel = Parallel(network, deepcopy(network).requires_grad_(False), accelerator, engine)
        updates.append(Update(parallel, [], OptimConfig(lr=1e-2, max_grad_norm=limit), last_step=9))
        updates[-1].fuses = fuses
        generator = torch.Generator().manual_seed(1)
        for step in range(3):
            for p in network.parameters():
                g = torch.randn(p.shape, generator=generator)
                p.grad = g.to(p.dtype) if p.requires_grad else None
            norms.append(updates[-1](step))
            assert all(p.grad is None for p in network.parameters())
    torch.testing.assert_close(norms[:3], norms[3:], rtol=1e-5, atol=0)
    turn, once = (update.parallel for update in updates)
    for kind in ("masters", "ema", "network"):
        there, here = (getattr(parallel, kind).state_dict() for parallel in (turn, once))
        rounding = 2**-7 if half and kind == "network" else 1e-5
        torch.testing.assert_close(here, there, rtol=rounding, atol=1e-6)


def compare_sharded() -> None:
    """Make steps of shards, of one process here: weights and norms are those of whole tensors."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    x, made = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), []
    for sharded in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 4))
        average = deepcopy(network).requires_grad_(False)
        for module in (network, average) if sharded else ():
            fully_shard(module)
        learned, averages = list(network.parameters()), list(average.parameters())
        optimizer = torch.optim.AdamW(learned, lr=1e-2, weight_decay=0.1, fused=True)
        one_pass, norms = None, []
        for i in range(4):
            network(x).square().mean().backward()
            norms.append(torch.cat([whole(p.grad).flatten() for p in learned]).norm())
            if one_pass is not None:
                torch.testing.assert_close(one_pass(), norms[-1], rtol=1e-5, atol=0)
            else:
                optimizer.step()
                torch._foreach_lerp_(averages, [p.detach() for p in learned], 1 - 0.9)
            if sharded and i == 0:
                one_pass = OnePass(optimizer, averages, 0.9)
                assert one_pass.sharded and all(isinstance(p, DTensor) for p in learned)
            optimizer.zero_grad()
        made.append([*norms, *(whole(p) for p in (*learned, *averages))])
    assert min(norms) > 0
    torch.testing.assert_close(*made, rtol=1e-5, atol=1e-6)
    dist.destroy_process_group()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


if __name__ == "__main__":
    for case in ((False, None), (False, 0.5), (True, None)):
        compare(*case)
        print("same:", *case)
    for case in ((False, None), (False, 1.0), (True, None)):
        compare_updates(*case)
        print("same:", *case)
    if can_shard(torch.device("cpu")):
        compare_sharded()
        print("same: sharded")
