"""The samples of a training step, with everything that was drawn at random for them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples of a step, on the device."""

    step: int  # steps done before this one
    images: Tensor  # as the source gives them: uint8 (N, C, H, W), or cached moments
    mirrored: Tensor  # (N,) booleans
    labels: Tensor  # (N,)
    dropped: Tensor  # (N,) booleans: labels that the network does not see
    t: Tensor  # (N,)
    x_1: Tensor  # (N, C, h, w), mirrored where drawn
    x_0: Tensor  # as x_1
    extra: Mapping[str, Tensor]  # (N, ...) each: what regularisers declared that they draw or read

    @property
    def conditions(self) -> dict[str, Tensor]:
        """Return the arguments of the network besides x_t and t."""
        return dict(y=self.labels, force_drop_ids=self.dropped)
