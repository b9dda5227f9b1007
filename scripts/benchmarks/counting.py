"""Counts of what a training step asks of a GPU, on a machine without one: fake tensors are "run".

A fake tensor has a shape, a dtype and a device but no content, so that a step of SiT-XL/2 takes
seconds. The step is train.py's own (training/step.py), of cached latents in bf16 autocast.

Copies and waits are counted on fake CUDA tensors, in the forward pass, the losses and the update.
Autograd asks the driver for a stream as soon as a backward pass meets such a tensor, so kernels,
traffic and saved bytes are counted of the whole step on fake CPU tensors: the same operations, but
for the norm of the gradients, which a GPU computes for many at a time.

A compiled step consists of the kernels that inductor plans for its graphs (counted_graphs.py), of
the update's one kernel, and of the operations around them.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data.loader import IndexedSteps
from data.order import StepBatches
from models import find_model
from models.compiling import compiled
from scripts.benchmarks.counted_operations import Counting, Counts, Saved
from scripts.benchmarks.stand_ins import (
    LATENT,
    CountedPass,
    Latents,
    OneProcess,
    move,
    read_features,
    stay,
)
from training.config import EngineConfig, OptimConfig, TrainConfig
from training.methods.method import Materials, Regularizer, as_given
from training.methods.methods import make_regularizers
from training.methods.repa import FEATURES, ReadFeatures, REPAConfig, REPARegularizer
from training.objective import Objective
from training.parallel import Parallel
from training.step import TrainStep
from training.step_draws import BatchMaker, StepDraws
from training.tracking import Meter
from training.update import Update
from transport import create_transport


@dataclass
class Counted:
    """Counts of a step, and what there was after it."""

    parts: dict[str, Counts]
    saved: int
    """bytes that the forward pass keeps for the backward pass, weights excepted"""
    dtypes: dict[str, set[torch.dtype]]
    """of the values that are logged, the weights, the EMA and the optimizer's state"""

    @property
    def launches(self) -> int:
        return sum(counts.launches for counts in self.parts.values())

    @property
    def traffic(self) -> int:
        return sum(counts.traffic for counts in self.parts.values())

    @property
    def copies(self) -> list[tuple[int, bool]]:
        return [copy for counts in self.parts.values() for copy in counts.copies]

    @property
    def waits(self) -> list[str]:
        return [wait for counts in self.parts.values() for wait in counts.waits]


def count_step(
    model: str, loss: str, batch: int = 32, device: str = "cpu", engine: EngineConfig | None = None
) -> Counted:
    """Count the second step of a run; the first one makes the optimizer's state and the graphs.

    Args:
        loss: as --loss-type; REPA's features are cached ones.
        device: "cuda" for copies and waits, "cpu" for everything else.
        engine: eager unless given; what it compiles is counted on the "cpu" only.
    """
    engine, counting = engine or EngineConfig(compile=False), Counting()
    with compiling(counting) if engine.compile else nullcontext():
        return count_second_step(model, loss, batch, device, engine, counting)


def compiling(counting: Counting) -> AbstractContextManager:
    """Have graphs counted wherever they run; imports inductor, which takes seconds."""
    from scripts.benchmarks.counted_graphs import PlannedGraphs, compiling_with

    return compiling_with(PlannedGraphs(counting.graph))


def count_second_step(
    model: str, loss: str, batch: int, device: str, engine: EngineConfig, counting: Counting
) -> Counted:
    pairs = "[(4,7),(3,8)]" if loss == "multiple_sync" else None
    config = TrainConfig(model=model, loss_type=cast(Any, loss), multi_blocks_match=pairs)
    wrap = compiled if engine.compile else as_given
    accelerator: Any = OneProcess(device, counting)
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # one: another one would convert tensors
    with mode:
        with torch.device(device):
            network = find_model(model)(input_size=LATENT[1]).train()
            ema = find_model(model)(input_size=LATENT[1]).eval().requires_grad_(False)
        for module in (network, ema):
            stay(module)
        transport = create_transport()
        parallel = Parallel(network, ema, accelerator, engine)
        given = Materials(
            config=config, last_step=100, network=network, ema=ema, transport=transport,
            source=cast(Any, None), accelerator=accelerator, compiled=wrap,
        )  # fmt: skip
        regularizers = regularizers_of(given)
        for regularizer in regularizers:
            if regularizer.head is not None:
                move(regularizer.head, device)
        update = Update(parallel, regularizers, OptimConfig(), 100)
        objective = Objective(transport, regularizers, wrap)
    draws = StepDraws(
        seed=0, transport=transport, dropout=0.1, noise_shape=LATENT, latent_shape=LATENT,
        extra=[draw for each in regularizers for draw in each.draws],
        reads={name: read for each in regularizers for name, read in each.reads.items()},
    )  # fmt: skip
    source: Any = Latents()
    batches = BatchMaker(draws, source, accelerator.device)
    steps = IndexedSteps(source, StepBatches(len(source), batch, 0, 0, 2, range(batch)), draws)
    packed = [steps[0], steps[1]]  # as a loader's workers make them
    step = TrainStep(
        parallel=parallel, objective=objective, update=update, batches=batches,
        parts=engine.accumulation_steps,
    )  # fmt: skip
    saved, modules = Saved(), [network, update.heads.modules]
    with mode:
        meter = Meter(accelerator)
        if engine.compile:
            step(batches.place(packed[0]), 0)
            # as Update does on CUDA
            update.one_pass = CountedPass(update.optimizer, list(ema.parameters()), counting)
            update.fuses = True
        else:
            make_state(update, modules)
        with ExitStack() as stack:
            stack.enter_context(saved.hooks())
            stack.enter_context(counting)
            values = step(batches.place(packed[1]), 1)
            meter.add(values)
    state = [s for optimizer in (update.optimizer,) for s in optimizer.state.values()]
    return Counted(
        parts=counting.parts,
        saved=saved.bytes(modules),
        dtypes={
            "logged": {value.dtype for value in values.values()},
            "weights": {p.dtype for module in modules for p in module.parameters()},
            "ema": {p.dtype for p in ema.parameters()},
            "optimizer": {s[key].dtype for s in state for key in ("exp_avg", "exp_avg_sq")},
        },
    )


def make_state(update: Update, modules: Sequence[nn.Module]) -> None:
    """Make the optimizers' state, by a step that needs no forward pass."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
    update(0)


def regularizers_of(given: Materials) -> list[Regularizer]:
    """Make the regularisers of a run; REPA's features are read by the loader's workers."""
    words = given.config.loss_type.split("+")
    if "repa" not in words:
        return make_regularizers(given)
    others: list[Regularizer] = []
    if "layer_sync" in words:
        alone = dataclasses.replace(given.config, loss_type="layer_sync")
        others = make_regularizers(dataclasses.replace(given, config=alone))
    settings = REPAConfig()
    features: Any = ReadFeatures(cast(Any, SimpleNamespace(width=768)))
    features.reads = {FEATURES: read_features}
    depth = settings.depth(given.config.model)
    repa = REPARegularizer(
        given.network, features, depth, settings, given.head_seed, given.compiled
    )
    return [*others, repa]
