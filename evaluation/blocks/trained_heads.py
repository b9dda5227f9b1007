"""Training of heads on the tokens of all blocks at all times, in one pass of the network a batch.

Heads of every block and time are slices of one stacked parameter (times, blocks, ...), so that one
optimizer step trains them all, each as if it were alone. The batches of an epoch are a function of
the seed and the epoch; each process takes its part of every batch, and gradients are summed, so
that the heads do not depend on the number of processes but for rounding. The last epoch counts:
held-out images are looked at once, after it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from evaluation.blocks.example_batches import Examples, MakeTarget, View
from evaluation.blocks.tokens import Batch, TokenExtractor
from runtime.files import replacing
from runtime.processes import Processes, told_by_first
from runtime.progress import Progress
from runtime.randomness import epoch_order


@dataclass(frozen=True)
class HeadSettings:
    """Settings of the training of heads.

    Args:
        batch: images in a step, over all processes; all images where there are fewer.
        lr: at the start.
        schedule: whether it falls to 0 as a cosine over the steps, or stays.
        clip: largest norm of the gradient of a head, None for no limit.
        flip, crop: what is drawn anew in each epoch, with new noise; neither leaves the images and
            their noise as they are.
    """

    epochs: int
    batch: int
    lr: float
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    clip: float | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    flip: bool = False
    crop: bool = False

    def view(self, epoch: int) -> View | None:
        return View(epoch, self.flip, self.crop) if self.flip or self.crop else None


class Heads(Protocol):
    """Heads of all blocks at all times; a module whose parameters are (times, blocks, ...)."""

    def parameters(self) -> Iterable[Tensor]: ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> object: ...

    def reduce(self, tokens: Sequence[Tensor]) -> Tensor:
        """Return what heads read of the tokens (N, T, D) of every block, (blocks, N, ...)."""

    def losses(self, k: int, features: Tensor, target: Tensor, processes: Processes) -> Tensor:
        """Return the losses (blocks,) of the heads at times[k] on this process's part of a batch.

        Those of all processes add up to the losses of the batch.
        """


@dataclass
class HeadTraining:
    """A training of heads; `run` goes on where a killed one stopped.

    Args:
        numbers: of the images, the same on every process.
        scratch: the file that holds the state after each epoch.
        recipe: tells what the state belongs to; another one's state is not used.
    """

    heads: Heads
    settings: HeadSettings
    extractor: TokenExtractor
    examples: Examples
    numbers: Sequence[int]
    target: MakeTarget
    times: Sequence[float]
    processes: Processes
    scratch: Path
    recipe: str = ""
    name: str = "heads"
    after_epoch: Callable[[int], None] | None = None
    """called with the number of each epoch, from 0, when it has ended; a collective"""
    curve: list[list[list[float]]] = field(default_factory=list)
    """mean losses (epochs, times, blocks)"""

    def __post_init__(self) -> None:
        s = self.settings
        self.batch = min(s.batch, len(self.numbers))
        self.steps = len(self.numbers) // self.batch  # of an epoch
        if self.batch < self.processes.count:
            raise ValueError(
                f"{self.batch} images in a batch for {self.processes.count} processes: use fewer "
                f"processes, or larger batches"
            )
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[s.optimizer]
        self.optimizer = kind(self.heads.parameters(), lr=s.lr, weight_decay=s.weight_decay)

    def run(self) -> list[list[list[float]]]:
        """Train to the end; return the mean losses (epochs, times, blocks)."""
        epochs, shown = self.settings.epochs, self.processes.first
        self.resume()
        done = len(self.curve) * self.steps
        total = epochs * self.steps
        with Progress(self.name, total, "step", initial=done, shown=shown) as progress:
            for epoch in range(len(self.curve), epochs):
                losses = self.epoch(epoch, progress)
                self.curve.append(losses.tolist())
                if self.after_epoch is not None:
                    self.after_epoch(epoch)
                self.keep()
        return self.curve

    def epoch(self, epoch: int, progress: Progress) -> Tensor:
        order = epoch_order(self.examples.seed, epoch, len(self.numbers))
        own, size = self.processes.share(self.batch), self.examples.batch_size
        parts = math.ceil(len(own) / size)
        groups = []
        for step in range(self.steps):
            start, stop = step * self.batch + own.start, step * self.batch + own.stop
            chosen = [int(self.numbers[i]) for i in order[start:stop]]
            groups += [chosen[i : i + size] for i in range(0, len(chosen), size)]
        batches = self.examples.groups(groups, self.target, self.settings.view(epoch))
        total = torch.zeros(())
        for step in range(self.steps):
            losses = self.step(epoch * self.steps + step, islice(batches, parts))
            total = total + losses.double().cpu()
            progress.update(1, f"loss {losses.mean().item():.3f}")
        return total / self.steps

    def step(self, step: int, batches: Iterable[Batch]) -> Tensor:
        """Make one step with this process's part of a batch; return the losses (times, blocks)."""
        features: list[list[Tensor]] = [[] for _ in self.times]
        targets = []
        for k, tokens, batch in self.extractor.each(batches, self.times):
            features[k].append(self.heads.reduce(tokens))
            if k == 0:
                targets.append(batch.target)
        target, losses = torch.cat(targets), []
        rate = 1.0
        if self.settings.schedule == "cosine":
            rate = 0.5 * (1 + math.cos(math.pi * step / (self.settings.epochs * self.steps)))
        self.optimizer.param_groups[0]["lr"] = self.settings.lr * rate
        self.optimizer.zero_grad(set_to_none=False)
        for k, parts in enumerate(features):
            own = self.heads.losses(k, torch.cat(parts, dim=1), target, self.processes)
            own.sum().backward()
            losses.append(own.detach())
            parts.clear()
        for parameter in self.heads.parameters():
            assert parameter.grad is not None
            parameter.grad.copy_(self.processes.sum(parameter.grad))
        if self.settings.clip is not None:
            clip_each(self.heads.parameters(), self.settings.clip)
        self.optimizer.step()
        return self.processes.sum(torch.stack(losses))

    def keep(self) -> None:
        """Write the state, on the first process."""
        if not self.processes.first:
            return
        state = {
            "recipe": self.recipe,
            "curve": self.curve,
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.scratch) as temporary:
            torch.save(state, temporary)

    def resume(self) -> None:
        """Take the state of a killed training of the same recipe up, if there is one."""
        state = told_by_first(self.read)
        if state is not None:
            self.curve = state["curve"]
            self.heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])

    def read(self) -> dict | None:
        if not self.scratch.is_file():
            return None
        state = torch.load(self.scratch, map_location="cpu", weights_only=True)
        return state if state["recipe"] == self.recipe else None


def clip_each(parameters: Iterable[Tensor], largest: float) -> None:
    """Scale the gradient of every head down to a norm of at most `largest`, each by itself."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack([g.flatten(2).square().sum(dim=2) for g in gradients]).sum(dim=0)
    scale = (largest / (squares.sqrt() + 1e-6)).clamp(max=1)  # (times, blocks)
    for gradient in gradients:
        gradient.mul_(scale.view(*scale.shape, *[1] * (gradient.dim() - 2)))
