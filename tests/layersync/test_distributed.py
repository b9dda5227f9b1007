"""DDP and FSDP2 in two real processes: the gradients of one process with the whole batch."""

import os
import subprocess

from forking import ENVIRONMENT, forked_python
from launching import ROOT

SCRIPT = """
import copy
import sys
from contextlib import nullcontext
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from layersync import LayerSync

torch.set_num_threads(1)

class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.recompute = False

    def forward(self, x):
        for block in self.blocks:
            y = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
            x = x + y.tanh()
        return x

def gradients(model, blocks, x, parts=1, task=1.0, no_sync=nullcontext):
    sync = LayerSync(blocks, [(1, 3), (2, 4)])
    for _ in range(2):  # the second step meets what the first left behind
        model.zero_grad()
        for i, part in enumerate(x.chunk(parts)):
            with nullcontext() if i == parts - 1 else no_sync():
                with sync.capture():
                    out = model(part)
                (task * out.square().mean() + 0.5 * sync.loss()).div(parts).backward()
    gradients = [p.grad for p in blocks.parameters()]
    return [g.full_tensor() if isinstance(g, DTensor) else g for g in gradients]

def sharded(recompute=False, **policy):
    model = copy.deepcopy(plain)
    model.recompute = recompute
    for block in model.blocks:
        fully_shard(block, mp_policy=MixedPrecisionPolicy(**policy))
    return fully_shard(model)

def same(actual, expected, tolerance=1e-5):
    for one, two in zip(actual, expected, strict=True):
        one, two = (torch.zeros(()) if g is None else g for g in (one, two))
        torch.testing.assert_close(one, two.expand_as(one), rtol=tolerance, atol=tolerance / 10)

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
torch.manual_seed(0)
plain, x = Stack(), torch.randn(8, 5, 8)
mine = x[4 * rank : 4 * rank + 4]
reference = copy.deepcopy(plain)
whole = gradients(reference, reference.blocks, x)
assert all(gradient.norm() > 0 for gradient in whole)

ddp = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
same(gradients(ddp, ddp.module.blocks, mine), whole)
same(gradients(ddp, ddp.module.blocks, mine, parts=2, no_sync=ddp.no_sync), whole)

if not hasattr(torch.cpu.Stream, "record_event"):  # torch 2.6 shards on GPUs only
    dist.destroy_process_group()
    sys.exit()
model = sharded()
same(gradients(model, model.blocks, mine), whole)
same(gradients(model, model.blocks, mine, parts=2), whole)
model = sharded(recompute=True)
same(gradients(model, model.blocks, mine), whole)
model = sharded(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
same(gradients(model, model.blocks, mine), whole, tolerance=0.05)

alone = gradients(reference, reference.blocks, x, task=0.0)
model = sharded()
same(gradients(model, model.blocks, mine, task=0.0), alone)
dist.destroy_process_group()
"""


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ranks = [
        subprocess.Popen(
            [forked_python(), script, tmp_path, str(rank)],
            env=ENVIRONMENT | {"PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors
