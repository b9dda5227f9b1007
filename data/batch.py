"""The samples of a training step, with everything that was drawn at random for them."""

from dataclasses import dataclass

from torch import Tensor

from runtime.randomness import Streams


@dataclass(frozen=True)
class Batch:
    """Samples of a step, on the device."""

    step: int  # steps done before this one
    positions: range  # of these samples in the global batch
    images: Tensor  # as the source gives them: uint8 (N, C, H, W), or cached moments
    mirrored: Tensor  # (N,) booleans
    labels: Tensor  # (N,)
    dropped: Tensor  # (N,) booleans: labels that the network does not see
    t: Tensor  # (N,)
    x_1: Tensor  # (N, C, h, w), mirrored where drawn
    x_0: Tensor  # as x_1
    draws: Streams  # for what a regulariser draws besides

    @property
    def conditions(self) -> dict[str, Tensor]:
        """Return the arguments of the network besides x_t and t."""
        return dict(y=self.labels, force_drop_ids=self.dropped)
