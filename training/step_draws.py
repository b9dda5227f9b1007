"""Everything random about a training step: mirrors, dropped labels, times, noise.

The loader's workers make it ahead of time, with the items that it belongs to; all that is left for
the device is to encode x_1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from data.batch import Batch
from data.draws import Draw
from data.encoding import Encoding
from data.packing import Packed
from runtime.randomness import step_streams
from transport import Transport

Read = Callable[[list[int], Tensor], Tensor]
"""Function of the numbers of images and of which are mirrored (N,): what is stored of them."""
NOISE = "noise"  # of the codec; in a step, and in no batch


@dataclass(frozen=True)
class StepDraws:
    """Draws of a step, a function of (seed, step, position), and what it reads besides items.

    It can be pickled, so that the loader's workers have it.
    """

    seed: int
    transport: Transport
    dropout: float
    """probability that the network does not see a label"""
    noise_shape: tuple[int, ...] | None
    """of the codec's noise, None without any"""
    latent_shape: tuple[int, ...]
    """of x_1"""
    extra: Sequence[Draw] = ()
    """what regularisers draw after all others"""
    reads: Mapping[str, Read] = field(default_factory=dict)
    """what is read for them"""

    def __call__(
        self, step: int, positions: range, images: list[int] | None = None
    ) -> dict[str, Tensor]:
        """Draw for the samples at `positions` of a global batch. The order is part of a run.

        Args:
            step: steps done before this one.
            images: their numbers in the source; nothing is read without them.
        """
        draws = step_streams(self.seed, step, positions)
        drawn = {
            "mirrored": draws.uniform() < 0.5,
            "dropped": draws.uniform() < self.dropout,
            "t": self.transport.training_times(draws.uniform()),  # (N,)
        }
        if self.noise_shape is not None:
            drawn[NOISE] = draws.normal(self.noise_shape)
        drawn["x_0"] = draws.normal(self.latent_shape)  # (N, C, h, w)
        drawn |= {draw.name: draw.of(draws) for draw in self.extra}
        if images is not None:
            drawn |= {name: read(images, drawn["mirrored"]) for name, read in self.reads.items()}
        return drawn


OWN = {each.name for each in fields(Batch)} | {NOISE}


class BatchMaker:
    """Makes batches on the device of what the loader gives.

    Args:
        draws: of the same run as the loader's.
    """

    def __init__(self, draws: StepDraws, encoding: Encoding, device: torch.device):
        self.draws, self.encoding, self.device = draws, encoding, device

    def place(self, packed: Packed) -> dict[str, Tensor]:
        """Bring a step to the device, in one copy."""
        return packed.to(self.device)

    def batch(self, step: int, placed: Mapping[str, Tensor], rows: slice) -> Batch:
        """Make a batch of these rows of a placed step, x_1 encoded."""
        part = {name: tensor[rows] for name, tensor in placed.items()}
        x_1 = self.encoding.encode(part["images"], part["mirrored"], part.get(NOISE))
        own = {name: tensor for name, tensor in part.items() if name in OWN and name != NOISE}
        extra = {name: tensor for name, tensor in part.items() if name not in OWN}
        return Batch(step=step, x_1=x_1, extra=extra, **own)

    def again(self, images: Tensor, labels: Tensor, step: int, positions: range) -> Batch:
        """Draw for items that are on the device already, as a step would; nothing is read.

        Args:
            images: items of the source, (N, *source.shape), at `positions` of a global batch.
            labels: (N,).
            step: steps done before it.
        """
        drawn = Packed.of(step, self.draws(step, positions)).to(self.device)
        return self.batch(step, {"images": images, "labels": labels, **drawn}, slice(None))
