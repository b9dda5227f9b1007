"""CREPA and LayerSync in two real processes on tiny video transformers: as one, with all videos.

`python test_crepa_distributed.py FOLDER RANK` is one of the two.
"""

import copy
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from layersync import Schedule, capture, find_blocks

SCHEDULE = Schedule(0.5, similarity_threshold=2.0, convention="simpletuner")


@pytest.mark.slow
def test_two_processes_are_as_one_with_all_videos(tmp_path):
    from launching import ENVIRONMENT, ROOT, forked_python

    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ranks = [
        subprocess.Popen(
            [forked_python(), __file__, tmp_path, str(rank)],
            env=ENVIRONMENT | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [rank.communicate(timeout=200) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], printed[0][1][-3000:]
    families = "Wan HunyuanVideo LTX-Video CogVideoX Mochi"
    assert [out for out, _ in printed] == [f"{families}\n"] * 2


def step(arch, model, inner, batch, seed, shard_projector=False, parts=1):
    """(gradients of a training step, those of the projector, the average of the score).

    With several parts, of the same videos, gradients are accumulated.
    """
    torch.manual_seed(seed)
    sync, crepa = arch.sync(inner), arch.crepa(inner, schedule=SCHEDULE)
    if shard_projector:
        for parameter in crepa.parameters():  # else each half has a seed of its own
            dist.broadcast(parameter.data, 0)
        fully_shard(crepa.projector)
    for i in range(parts):
        with model.no_sync() if i < parts - 1 else nullcontext():
            with capture(sync, crepa):
                out = model(**batch)[0]
            (out.square().mean() + sync.loss() + crepa.loss()).div(parts).backward()
    modules = inner, crepa.projector
    named = [dict(module.named_parameters()) for module in modules]
    gradients = [
        {n: p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
         for n, p in parameters.items() if p.grad is not None}
        for parameters in named
    ]  # fmt: skip
    return *gradients, crepa.coefficient.average


def same(actual, expected, what):
    for ours, wanted in zip(actual[:2], expected[:2], strict=True):
        for name in ours.keys() | wanted.keys():  # what had no gradient may have one of zeros
            either = ours.get(name), wanted.get(name)
            zero = torch.zeros_like(next(g for g in either if g is not None))
            pair = [zero if gradient is None else gradient for gradient in either]
            torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-6, msg=lambda m: f"{what}: {m}")
    assert len(expected[1]) == 4
    torch.testing.assert_close(actual[2], expected[2], rtol=1e-5, atol=0)


def check(arch, rank, whole):
    plain, batch = arch.model(), arch.batch()
    tensors = {n: v for n, v in batch.items() if isinstance(v, torch.Tensor) and len(v) == 2}
    mine = batch | {name: value[rank : rank + 1] for name, value in tensors.items()}

    inner = copy.deepcopy(plain)
    ddp = DistributedDataParallel(inner, find_unused_parameters=True)  # text of the last block
    same(step(arch, ddp, inner, mine, seed=5 + rank), whole, f"{arch.family}, DDP")

    if arch.family == "Wan":
        ddp = DistributedDataParallel(inner := copy.deepcopy(plain), find_unused_parameters=True)
        same(step(arch, ddp, inner, mine, 5 + rank, parts=2), whole, "accumulation")

    can_shard = hasattr(torch.cpu.Stream, "record_event")  # torch 2.6 shards on GPUs only
    for shard_projector in (False, True) if can_shard else ():
        inner = copy.deepcopy(plain)
        for block in find_blocks(inner, arch.names):
            fully_shard(block)
        fully_shard(inner)
        sharded = step(arch, inner, inner, mine, 5 + rank, shard_projector)
        same(sharded, whole, f"{arch.family}, FSDP2, {shard_projector}")


def main(folder, rank):
    from architectures import ARCHITECTURES

    torch.set_num_threads(1)
    videos, wholes = [arch for arch in ARCHITECTURES if arch.frames], []
    for arch in videos:  # before there are processes to average over
        model = arch.model()
        wholes.append(step(arch, model, model, arch.batch(), seed=5))
    store = f"file://{Path(folder) / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    for arch, whole in zip(videos, wholes, strict=True):
        check(arch, rank, whole)
    dist.destroy_process_group()
    print(*(arch.family for arch in videos))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
