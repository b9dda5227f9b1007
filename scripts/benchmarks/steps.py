"""Training steps with and without LayerSync, in turn, as train.py makes them."""

import statistics
from contextlib import nullcontext
from copy import deepcopy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from layersync import LayerSync
from models import find_model
from scripts.benchmarks.timing import DEVICE, alternate, autocast, ratio, set_precision
from training.checks import layer_sync_settings
from training.config import OptimConfig, TrainConfig
from training.optimizer import make_optimizer
from transport import create_transport

LATENTS = (4, 32, 32)
COLUMNS = dict(
    model="", batch="", precision="", compiled="", loss="", images_per_second=".3g",
    of_peak=".0%", memory_gb=".3f", time_ratio=".4f", memory_ratio=".4f", parameters="d",
)  # fmt: skip


class Step:
    """One model, its optimizer and EMA, and a batch of random latents."""

    def __init__(self, name: str, precision: str, compiled: bool, batch: int, encode: bool = False):
        set_precision(precision)
        torch.manual_seed(0)
        self.network = find_model(name)(input_size=LATENTS[1]).to(DEVICE)
        self.ema = deepcopy(self.network).eval().requires_grad_(False)
        if compiled:
            for block in self.network.blocks:
                block.compile()
        pairs, self.weight = layer_sync_settings(TrainConfig(model=name))
        self.sync = LayerSync(self.network.blocks, pairs)
        self.optimizer = make_optimizer(self.network, OptimConfig())
        self.update_ema = get_ema_multi_avg_fn(0.9999)
        self.transport, self.precision = create_transport(), precision
        self.x_1 = torch.randn(batch, *LATENTS, device=DEVICE)
        self.labels = torch.randint(1000, (batch,), device=DEVICE)
        self.encode = sd_encoder() if encode else None
        self.images = torch.rand(batch, 3, 256, 256, device=DEVICE) * 2 - 1 if encode else None

    def forward(self, regularised: bool) -> torch.Tensor:
        x_1 = self.encode(self.images) if self.encode else self.x_1
        with self.sync.capture() if regularised else nullcontext(), autocast(self.precision):
            losses = self.transport.training_losses(self.network, x_1, dict(y=self.labels))
        loss = losses["loss"].mean()
        return loss + self.weight * self.sync.loss() if regularised else loss

    def __call__(self, regularised: bool) -> None:
        self.forward(regularised).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update_ema(list(self.ema.parameters()), list(self.network.parameters()), None)

    def flops(self) -> int:
        """Of a vanilla step's matrix products, forward and backward."""
        with FlopCounterMode(display=False) as counter:
            self.forward(regularised=False).backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()

    def memory(self, regularised: bool) -> int:
        """Bytes: the allocator's peak in a step (GPU), or what backward keeps (CPU)."""
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self(regularised)
            return torch.cuda.max_memory_allocated()
        kept = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.forward(regularised)
        weights = {p.untyped_storage().data_ptr() for p in self.network.parameters()}
        total = sum(size for pointer, size in kept.items() if pointer not in weights)
        del loss
        return total


def sd_encoder():
    """The SD autoencoder's encoder with random weights, as training without a cache uses it."""
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


def measure(name: str, batch: int, precision: str, compiled: bool, peak: float, repeats: int):
    """Two rows, vanilla and layer_sync, from alternating steps."""
    step = Step(name, precision, compiled, batch)
    flops = Step(name, precision, False, batch).flops() if compiled else step.flops()
    variants = {"vanilla": False, "layer_sync": True}
    works = {variant: lambda on=on: step(on) for variant, on in variants.items()}
    times = alternate(works, repeats)
    memory = {variant: step.memory(on) for variant, on in variants.items()}
    rows = []
    for variant, measured in times.items():
        median = statistics.median(measured)
        row = dict(
            model=name, batch=batch, precision=precision, compiled="yes" if compiled else "no",
            loss=variant, images_per_second=batch / median, of_peak=flops / median / peak,
            memory_gb=memory[variant] / 1e9, seconds=measured,
            parameters=sum(p.numel() for p in step.network.parameters()),
        )  # fmt: skip
        if variant == "layer_sync":
            row["time_ratio"] = ratio(measured, times["vanilla"])
            row["memory_ratio"] = memory["layer_sync"] / memory["vanilla"]
        rows.append(row)
    return rows


def encoding_on_the_fly(name: str, batch: int, repeats: int) -> dict:
    """What the originals do: eager TF32, the autoencoder in every step."""
    step = Step(name, "tf32", False, batch, encode=True)
    times = alternate({"vanilla": lambda: step(False)}, repeats)["vanilla"]
    speed = batch / statistics.median(times)
    label = "vanilla, encoding images"
    return dict(
        model=name, batch=batch, precision="tf32", compiled="no", loss=label,
        images_per_second=speed, seconds=times,
    )  # fmt: skip


def run(c, peaks: dict[str, float]) -> list[dict]:
    compiled = {"no": [False], "yes": [True], "both": [False, True]}[c.compiled]
    cells = [(m, b, p, k) for m, b in c.sizes() for p in peaks for k in compiled]
    rows = []
    for name, batch, precision, compiles in tqdm(cells, desc="training steps", unit="cell"):
        torch.compiler.reset()
        rows += measure(name, batch, precision, compiles, peaks[precision], c.repeats)
    if DEVICE.type == "cuda":
        rows += [encoding_on_the_fly(name, batch, c.repeats) for name, batch in c.sizes()]
    return rows
