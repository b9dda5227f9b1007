"""Samples of a network in memory, without files: image i as sample_ddp.py makes it, no guidance."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.codecs import Codec
from runtime.processes import Processes
from runtime.progress import Progress
from runtime.randomness import image_streams
from sampling.labels import random_labels
from transport import Sampler, Transport


class InPlaceSampler:
    """A sampler of a network that is in use otherwise; Heun's method on the ODE.

    Image i, its label and its noise are those of sample_ddp.py with this seed.

    Args:
        network: called as network(x, t, y=labels).
        latent_shape: (C, h, w) of what it makes.
        steps: grid points of the solver.
        batch: images at a time.
    """

    def __init__(
        self,
        network: Any,
        transport: Transport,
        codec: Codec,
        latent_shape: tuple[int, int, int],
        *,
        num_classes: int,
        steps: int,
        seed: int,
        batch: int,
        device: torch.device,
    ):
        self.network, self.codec, self.latent_shape = network, codec, latent_shape
        self.num_classes, self.seed, self.batch, self.device = num_classes, seed, batch, device
        self.sample = Sampler(transport).sample_ode(
            sampling_method="heun2", num_steps=steps, trajectory=False
        )

    def labels(self, numbers: range) -> np.ndarray:
        """Return the labels of images `numbers`, (n,), as `draw` draws them."""
        return random_labels(image_streams(self.seed, numbers), self.num_classes).numpy()

    def batches(self, count: int, processes: Processes, name: str) -> Iterator[Tensor]:
        """Yield this process's share of `count` images, in order: uint8 (n, H, W, C), on the CPU.

        A sharded network needs every process in every pass: the longest share decides.
        """
        share, size = processes.share(count), self.batch
        longest = -(-count // processes.count)
        with Progress(name, len(share), "image", shown=processes.first) as progress:
            for start in range(0, longest, size):
                images = self.draw(range(share.start + start, share.start + start + size))
                own = max(0, min(size, len(share) - start))
                if own:
                    yield images[:own].cpu()
                progress.update(own)

    @torch.no_grad()
    def draw(self, numbers: range) -> Tensor:
        """Return images `numbers`, uint8 (n, H, W, C)."""
        streams = image_streams(self.seed, numbers, self.device)
        labels = random_labels(streams, self.num_classes)
        latents = self.sample(streams.normal(self.latent_shape), self.network, y=labels)[-1]
        return self.codec.decode(latents)
