"""Counts of what a training step asks of a GPU, on a machine without one: fake tensors are "run".

A fake tensor has a shape, a dtype and a device but no content, so that a step of SiT-XL/2 takes
seconds. The step is train.py's own (training/step.py), of cached latents in bf16 autocast.

Copies and waits are counted on fake CUDA tensors, in the forward pass, the losses and the update.
Autograd asks the driver for a stream as soon as a backward pass meets such a tensor, so kernels,
traffic and saved bytes are counted of the whole step on fake CPU tensors: the same operations, but
for the norm of the gradients, which a GPU computes for many at a time.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data.latents import sample_posterior
from data.loader import IndexedSteps
from data.order import StepBatches
from models import find_model
from scripts.benchmarks.counted_operations import Counting, Counts, Saved
from training.config import EngineConfig, OptimConfig, TrainConfig
from training.methods.method import Materials, Regularizer
from training.methods.methods import make_regularizers
from training.methods.repa import FEATURES, ReadFeatures, REPAConfig, REPARegularizer
from training.objective import Objective
from training.parallel import Parallel
from training.step import TrainStep
from training.step_draws import BatchMaker, StepDraws
from training.tracking import Meter
from training.update import Update
from transport import create_transport

LATENT = (4, 32, 32)


class Latents:
    """Cached latents of nothing in particular, on the CPU."""

    shape = (2, 2, *LATENT)

    def __len__(self) -> int:
        return 1024

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        moments = torch.zeros(len(numbers), *self.shape, dtype=torch.float16)
        return moments, torch.zeros(len(numbers), dtype=torch.int64)

    def encode(self, items: Tensor, mirrored: Tensor, noise: Tensor) -> Tensor:
        return sample_posterior(items, mirrored, noise, 0.18215)


class OneProcess:
    """The part of accelerate's `Accelerator` that a step needs, on a device that may be absent."""

    num_processes, is_main_process = 1, True

    def __init__(self, device: str, counting: Counting):
        self.device, self.counting = torch.device(device), counting
        self.network: Any = None

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 autocast; torch.autocast itself refuses CUDA where there is no GPU."""
        kind = self.device.type
        before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        torch.set_autocast_enabled(kind, True)
        torch.set_autocast_dtype(kind, torch.bfloat16)
        torch.autocast_increment_nesting()
        try:
            yield
        finally:
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()
            torch.set_autocast_enabled(kind, before[0])
            torch.set_autocast_dtype(kind, before[1])

    def prepare_model(self, module: nn.Module):
        self.network = self.network or module

        def call(*args, **kwargs) -> Tensor:
            with self.autocast():
                out = module(*args, **kwargs)
            return out.float()

        return call

    def backward(self, loss: Tensor) -> None:
        """Give every weight a gradient; on CUDA without asking autograd for it."""
        if self.device.type == "cuda":
            for parameter in self.network.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
            return
        self.counting.part = "backward"
        loss.backward()
        self.counting.part = "forward and update"

    def no_sync(self, module) -> AbstractContextManager:
        return nullcontext()

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        return tensor


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
    """Count the second step of a run; the first one makes the optimizer's state.

    Args:
        loss: as --loss-type; REPA's features are cached ones.
        device: "cuda" for copies and waits, "cpu" for everything else.
    """
    pairs = "[(4,7),(3,8)]" if loss == "multiple_sync" else None
    config = TrainConfig(model=model, loss_type=cast(Any, loss), multi_blocks_match=pairs)
    counting = Counting()
    accelerator: Any = OneProcess(device, counting)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device(device):
            network = find_model(model)(input_size=LATENT[1]).train()
            ema = find_model(model)(input_size=LATENT[1]).eval().requires_grad_(False)
        for module in (network, ema):
            stay(module)
        transport = create_transport()
        parallel = Parallel(network, ema, accelerator, engine or EngineConfig(compile=False))
        given = Materials(
            config=config, last_step=100, network=network, ema=ema, transport=transport,
            source=cast(Any, None), accelerator=accelerator,
        )  # fmt: skip
        regularizers = regularizers_of(given)
        for regularizer in regularizers:
            if regularizer.head is not None:
                move(regularizer.head, device)
        update = Update(parallel, regularizers, OptimConfig(), 100)
        objective = Objective(transport, regularizers)
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
        parts=parallel_parts(engine),
    )  # fmt: skip
    saved, values = Saved(), {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        meter = Meter(accelerator)
        meter.add(step(batches.place(packed[0]), 0), 0)
        with ExitStack() as stack:
            stack.enter_context(saved.hooks())
            stack.enter_context(counting)
            values = step(batches.place(packed[1]), 1)
            meter.add(values, 1)
    modules = [network, update.heads.modules]
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


def stay(module: Any) -> None:
    """Make `module.to` leave a module where it is, with weights that it cannot move."""
    module.to = lambda *where, **how: module


def move(module: nn.Module, device: str) -> None:
    """Give a module other fake weights, on this device; `Module.to` cannot move fake ones."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(part, name, nn.Parameter(fake))


def parallel_parts(engine: EngineConfig | None) -> int:
    return engine.accumulation_steps if engine else 1


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
    repa = REPARegularizer(given.network, features, depth, settings, given.head_seed)
    return [*others, repa]


def read_features(images: list[int], mirrored: Tensor) -> Tensor:
    return torch.zeros(len(images), 256, 768, dtype=torch.float16)
