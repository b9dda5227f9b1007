"""One training step as a benchmark runs it: network, losses, random batch; its memory and FLOPs."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.flop_counter import FlopCounterMode

from data.batch import Batch
from data.draws import Draw
from data.source_protocol import ImageSource
from models import find_model
from models.compiling import compiled as compiled_work
from runtime.randomness import step_streams
from scripts.benchmarks.timing import DEVICE, set_precision
from training.config import EngineConfig, OptimConfig, TrainConfig
from training.methods.heads import Heads
from training.methods.method import Materials, as_given
from training.methods.methods import make_regularizers
from training.methods.repa import REPAConfig
from training.objective import Objective
from training.parallel import Parallel, gradient_exchange
from training.update import Update
from transport import create_transport

LATENTS = (4, 32, 32)


class Step:
    """One model, its optimizer and EMA, a batch of random latents, and the losses asked for.

    Args:
        encode: make the latents of images in each step.
        features: what REPA aligns with, (N, T, D), instead of an encoder's output.
        optim: AdamW's settings, train.py's defaults unless given.
        options: more of `EngineConfig`.
    """

    def __init__(
        self, name: str, precision: str, compiled: bool, batch: int, losses: tuple[str, ...] = (),
        *, encode: bool = False, features: torch.Tensor | None = None,
        optim: OptimConfig | None = None, options: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        set_precision(precision)
        torch.manual_seed(0)
        self.optim = optim or OptimConfig()
        self.features = features
        engine = EngineConfig(cast(Any, precision), compile=compiled, **(options or {}))
        AcceleratorState._reset_state()  # otherwise it keeps a process's first precision
        accelerator = Accelerator(
            cpu=DEVICE.type == "cpu",
            mixed_precision="bf16" if precision == "bf16" else "no",
            kwargs_handlers=[gradient_exchange(engine)],
        )
        with DEVICE:  # of this process, as accelerate has set it; there weights are drawn at once
            network = find_model(name)(input_size=LATENTS[1])
        ema = deepcopy(network).eval().requires_grad_(False)
        self.parallel = Parallel(network, ema, accelerator, engine)
        self.compiled = compiled_work if compiled else as_given
        self.update = Update(self.parallel, [], self.optim, last_step=1)
        self.streams = step_streams(0, 0, range(batch), DEVICE)
        self.draws: list[Draw] = []
        self.objectives: dict[str, Objective] = {}
        self.heads: dict[str, Heads] = {}
        for loss in dict.fromkeys(("vanilla", *losses)):
            self.add_loss(TrainConfig(model=name, loss_type=cast(Any, loss)))
        self.x_1 = torch.randn(batch, *LATENTS, device=DEVICE)
        self.labels = torch.randint(1000, (batch,), device=DEVICE)
        self.encode = sd_encoder() if encode else None
        self.images = torch.randint(256, (batch, 3, 256, 256), dtype=torch.uint8, device=DEVICE)

    def add_loss(self, config: TrainConfig) -> None:
        transport = create_transport()
        made = make_regularizers(
            Materials(
                config=config,
                last_step=1,
                network=self.parallel.network,
                ema=cast(Any, self.parallel.ema),
                transport=transport,
                source=cast(Any, ImageSource()),
                accelerator=self.parallel.accelerator,
                load_encoder=random_encoder,
                compiled=self.compiled,
            )
        )
        self.draws += [draw for regularizer in made for draw in regularizer.draws]
        for regularizer in made if self.features is not None else ():
            cast(Any, regularizer).features = lambda batch: self.features
        self.objectives[config.loss_type] = Objective(transport, made, self.compiled)
        self.heads[config.loss_type] = Heads(made, self.parallel.accelerator, self.optim)

    def batch(self) -> Batch:
        x_1 = self.encode(self.images / 127.5 - 1) if self.encode else self.x_1
        count = len(x_1)
        none = torch.zeros(count, dtype=torch.bool, device=DEVICE)
        t, x_0 = torch.rand(count, device=DEVICE), torch.randn_like(x_1)
        extra = {draw.name: draw.of(self.streams) for draw in self.draws}
        return Batch(0, self.images, none, self.labels, none, t, x_1, x_0, extra)

    def forward(self, loss: str) -> torch.Tensor:
        objective = self.objectives[loss]
        return objective(self.parallel.model, self.batch(), self.parallel.autocast())[0]

    def __call__(self, loss: str) -> torch.Tensor:
        """Make a step; returns the norm of the gradients."""
        with self.update.accumulating(last=True):
            self.forward(loss).backward()
        self.update.heads = self.heads[loss]
        return self.update(step=0)

    def memory(self, loss: str) -> int:
        """Return bytes: the allocator's peak in a step (GPU), or those kept for backward (CPU)."""
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self(loss)
            return torch.cuda.max_memory_allocated()
        modules = [self.parallel.network, self.heads[loss].modules]
        return saved_bytes(lambda: self.forward(loss), modules)

    def kept(self, loss: str) -> int:
        """Return the bytes of everything that stays from step to step."""
        heads, parallel = self.heads[loss], self.parallel
        networks = dict.fromkeys((parallel.network, parallel.masters, parallel.ema, heads.modules))
        return kept_bytes(networks, (self.update.optimizer, *heads.optimizers))


def kept_bytes(
    modules: Iterable[torch.nn.Module], optimizers: Iterable[torch.optim.Optimizer]
) -> int:
    """Return the bytes of weights, gradients that are there, and optimizers' states."""
    tensors = [t for m in modules for p in m.parameters() for t in (p, p.grad) if t is not None]
    for optimizer in optimizers:
        tensors += [t for state in optimizer.state.values() for t in state.values()]
    return sum(tensor.nbytes for tensor in tensors)


def peak_of_one(step: Callable, kept: int) -> int:
    """Return the bytes that a GPU's allocator needs at most in a step, without other networks'.

    Args:
        kept: those that stay from step to step, of this network.
    """
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before + kept


def saved_bytes(forward: Callable[[], torch.Tensor], modules: list[torch.nn.Module]) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, without the weights."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = forward()
    weights = {p.untyped_storage().data_ptr() for m in modules for p in m.parameters()}
    total = sum(size for pointer, size in kept.items() if pointer not in weights)
    del value
    return total


def step_flops(name: str, batch: int) -> int:
    """Return the FLOPs of a vanilla step's matrix products, forward and backward.

    They are counted on tensors without values, which takes no time on any device.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = find_model(name)(input_size=LATENTS[1])
        x, y = torch.empty(batch, *LATENTS), torch.zeros(batch, dtype=torch.long)
        network(x, torch.empty(batch), y, torch.zeros(batch, dtype=torch.bool)).sum().backward()
    return counter.get_total_flops()


def random_encoder(c: REPAConfig) -> torch.nn.Module:
    """Return REPA's encoder with random weights, which take the same time."""
    import timm

    return timm.create_model(c.repa_encoder, num_classes=0)


def sd_encoder():
    """Return the SD autoencoder's encoder with random weights, as in training without a cache."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=4,
    )
    vae = vae.to(DEVICE).eval().requires_grad_(False)
    return lambda images: vae.encode(images).latent_dist.sample() * vae.config.scaling_factor
