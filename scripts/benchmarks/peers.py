"""Benchmark against an original checkout: its training and sampling step in turn with ours.

An original is SiT, LayerSync (models.py, transport/) or REPA (models/sit.py, loss.py, samplers.py).
Its modules have the names of ours, so they are imported under other ones. Its step is written here
as its train.py has it, with the same batch, precision and device as ours; the autoencoder and
REPA's encoder, which are the same on both sides, are left out. Originals run eagerly, as they do.
"""

import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from models import find_model
from sampling.sample_config import ODE
from scripts.benchmarks.measured_step import LATENTS, Step, kept_bytes, peak_of_one, saved_bytes
from scripts.benchmarks.sampling import SCALE, Case, Runs
from scripts.benchmarks.timing import (
    DEVICE,
    IN_A_ROW,
    Deadline,
    alternate,
    attempt,
    autocast,
    compiled_or_not,
    set_precision,
)
from training.config import OptimConfig, TrainConfig
from training.methods.layer_sync import layer_sync_settings

COLUMNS = dict(
    peer="", step="", model="", batch="d", precision="", ours="", peer_ms=".4g", ours_ms=".4g",
    time_ratio=".3f", lowest=".2f", highest=".2f", memory_ratio=".3f", note="",
)  # fmt: skip
LOSSES = {"SiT": "vanilla", "LayerSync": "layer_sync", "REPA": "repa"}
FEATURES = 768  # width of DINOv2-B's
EVALUATIONS = 2  # of the network, in a sampling run that is timed
DECAY = 0.9999
WARMUP = 2 if DEVICE.type == "cuda" else 1  # rounds that are not counted


def find_peer(folder: str) -> str:
    """Return which original a folder holds; `ValueError` if none."""
    root = Path(folder)
    if (root / "models" / "sit.py").is_file() and (root / "loss.py").is_file():
        return "REPA"
    if (root / "models.py").is_file() and (root / "transport" / "__init__.py").is_file():
        return "LayerSync" if "gt_encoder_depth" in (root / "models.py").read_text() else "SiT"
    raise ValueError(
        f"--peer {folder}: not a checkout of SiT, LayerSync or REPA (models.py and transport/, or "
        f"models/sit.py and loss.py)"
    )


def import_aside(folder: Path, name: str) -> ModuleType:
    """Import FOLDER/name.py, or the package FOLDER/name, as a module that ours do not see."""
    package = folder / name / "__init__.py"
    path = package if package.is_file() else folder / f"{name}.py"
    alias = f"peer_{folder.name}_{name.replace('/', '_')}".replace("-", "_")
    places = [str(package.parent)] if path == package else None
    spec = importlib.util.spec_from_file_location(alias, path, submodule_search_locations=places)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module  # its relative imports look here
    spec.loader.exec_module(module)
    return module


class Peer:
    """The network of an original, its optimizer and its average.

    `loss()` is a forward pass; called, it makes the training step of its train.py.
    """

    def __init__(self, folder: str, name: str, batch: int, precision: str):
        set_precision(precision)
        torch.manual_seed(0)
        self.kind, self.precision, self.root = find_peer(folder), precision, Path(folder).resolve()
        self.config = TrainConfig(model=name, loss_type=LOSSES[self.kind])  # type: ignore[arg-type]
        with DEVICE:  # where weights are drawn at once
            self.network = self.make_network(name).to(DEVICE)
            self.ema = self.make_network(name).to(DEVICE).eval().requires_grad_(False)
        self.ema.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0)
        self.x = torch.randn(batch, *LATENTS, device=DEVICE)
        self.y = torch.randint(1000, (batch,), device=DEVICE)
        self.features = torch.randn(batch, self.network.pos_embed.shape[1], FEATURES, device=DEVICE)

    def make_network(self, name: str) -> Any:
        if self.kind == "REPA":
            self.criterion = import_aside(self.root, "loss").SILoss()
            models = import_aside(self.root, "models/sit").SiT_models
            depth = self.config.repa.depth(name)
            width = find_model(name).keywords["hidden_size"]  # of its final layer
            return models[name](
                input_size=LATENTS[1], use_cfg=True, z_dims=[FEATURES], encoder_depth=depth,
                decoder_hidden_size=width, fused_attn=True, qk_norm=False,
            )  # fmt: skip
        models = import_aside(self.root, "models").SiT_models
        self.transport = import_aside(self.root, "transport").create_transport()
        depths = {}
        if self.kind == "LayerSync":
            ((student, teacher),), self.weight = layer_sync_settings(self.config)
            depths = dict(encoder_depth=student, gt_encoder_depth=teacher)
        return models[name](input_size=LATENTS[1], **depths)

    def loss(self) -> list[Tensor]:
        """Return the loss, then the terms that its train.py reads too."""
        with autocast(self.precision):
            if self.kind == "REPA":
                terms = self.criterion(self.network, self.x, dict(y=self.y), zs=[self.features])
                losses, projection = (term.mean() for term in terms)
                return [losses + 0.5 * projection, losses, projection]
            more = dict(loss_type="layer_sync") if self.kind == "LayerSync" else {}
            terms = self.transport.training_losses(self.network, self.x, dict(y=self.y), **more)
        loss = terms["loss"].mean()
        if self.kind == "SiT":
            return [loss]
        regularizer = terms["reg"].mean()
        return [loss + self.weight * regularizer, loss, regularizer]

    def __call__(self) -> None:
        values = self.loss()
        if self.kind != "REPA":
            self.optimizer.zero_grad()
        values[0].backward()
        if self.kind == "REPA":
            values.append(torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0))
        self.optimizer.step()
        if self.kind == "REPA":
            self.optimizer.zero_grad(set_to_none=True)
        self.update_average()
        for value in values:
            value.item()

    @torch.no_grad()
    def update_average(self) -> None:
        """One parameter after the other, as in all three."""
        averages = dict(self.ema.named_parameters())
        for name, parameter in self.network.named_parameters():
            averages[name].mul_(DECAY).add_(parameter.data, alpha=1 - DECAY)

    @torch.no_grad()
    def sample(self) -> None:
        """Make a guided batch with few steps of Euler's method, which cost what many cost each."""
        with autocast(self.precision):
            if self.kind == "REPA":
                sampler = import_aside(self.root, "samplers").euler_sampler
                sampler(self.ema, self.x, self.y, num_steps=EVALUATIONS, cfg_scale=SCALE)
                return
            sampler = import_aside(self.root, "transport").Sampler(self.transport)
            solve = sampler.sample_ode(sampling_method="euler", num_steps=EVALUATIONS + 1)
            y = torch.cat([self.y, torch.full_like(self.y, 1000)])
            z = torch.cat([self.x, self.x])
            solve(z, self.ema.forward_with_cfg, y=y, cfg_scale=SCALE)


def our_steps(peer: Peer, name: str, batch: int, compiled: list[bool]) -> dict[str, Step]:
    """Make our steps of the same loss, by what is done to them."""
    clipped = OptimConfig(max_grad_norm=1.0 if peer.kind == "REPA" else None)
    made = {}
    for compiles in compiled:
        step = Step(
            name, peer.precision, compiles, batch, (peer.config.loss_type,), optim=clipped,
            features=peer.features if peer.kind == "REPA" else None,
        )  # fmt: skip
        made["compiled" if compiles else "eager"] = step
    return made


def training_rows(peer: Peer, name: str, batch: int, compiled: list[bool], c) -> list[dict]:
    loss = peer.config.loss_type
    ours = our_steps(peer, name, batch, compiled)
    works: dict[str, Callable] = {"peer": peer}
    works |= {how: lambda step=step: step(loss) for how, step in ours.items()}
    times = alternate(works, c.repeats, WARMUP, c.clock, IN_A_ROW)
    memory = step_memory(peer)
    return [
        compare(times, how) | dict(step="training", memory_ratio=our_memory(step, loss) / memory)
        for how, step in ours.items()
    ]


def step_memory(peer: Peer) -> int:
    """Return bytes: what a step needs on a GPU, though others' networks are there; or on a CPU,
    what it keeps for its backward pass."""
    if DEVICE.type == "cuda":
        return peak_of_one(peer, kept_bytes((peer.network, peer.ema), [peer.optimizer]))
    return saved_bytes(lambda: peer.loss()[0], [peer.network])


def our_memory(step: Step, loss: str) -> int:
    """Return bytes as `step_memory` does."""
    if DEVICE.type == "cuda":
        return peak_of_one(lambda: step(loss), step.kept(loss))
    return step.memory(loss)


def sampling_rows(peer: Peer, name: str, batch: int, compiled: list[bool], c) -> list[dict]:
    euler = ODE(sampling_method="euler", num_sampling_steps=EVALUATIONS + 1)
    case = Case("ODE euler", euler, f"{SCALE:g}", dict(scale=SCALE))
    works: dict[str, Callable] = {"peer": peer.sample}
    for compiles in compiled:
        runs = Runs(name, batch, peer.precision, compiles)
        works["compiled" if compiles else "eager"] = lambda runs=runs: runs.sample(case)
    times = alternate(works, c.repeats, WARMUP, c.clock)
    return [compare(times, how) | dict(step="sampling") for how in works if how != "peer"]


def compare(times: dict[str, list[float]], how: str) -> dict:
    """Return the ratio of medians, and the lowest and highest of neighbouring runs."""
    ours, theirs = times[how], times["peer"]
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    medians = statistics.median(ours), statistics.median(theirs)
    return dict(
        ours=how, ours_ms=1e3 * medians[0], peer_ms=1e3 * medians[1],
        time_ratio=medians[0] / medians[1], lowest=min(ratios), highest=max(ratios),
        seconds=ours, peer_seconds=theirs,
    )  # fmt: skip


def run(c, deadline: Deadline) -> Iterator[dict]:
    """Yield rows of each checkout, model and precision."""
    cells = [(f, m, b, p) for p in c.precisions for m, b in c.sizes("peer_models") for f in c.peer]
    for folder, name, batch, precision in tqdm(cells, desc="peers", unit="cell"):

        def work(folder=folder, name=name, batch=batch, precision=precision):
            peer, compiled = Peer(folder, name, batch, precision), compiled_or_not(c)
            rows = training_rows(peer, name, batch, compiled, c)
            return rows + sampling_rows(peer, name, batch, compiled, c)

        for row in attempt(work, deadline):
            yield dict(peer=find_peer(folder), model=name, batch=batch, precision=precision) | row
