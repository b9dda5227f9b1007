"""Classifier-free guidance around a network (Ho & Salimans, arXiv 2207.12598).

    v = v_uncond + w (v_cond - v_uncond)

w = 1 is the conditional network itself and costs one pass, and so does any w at times outside the
guidance interval (Kynkaanniemi et al., arXiv 2404.07724). SiT's published numbers guide only the
first 3 of the 4 latent channels; that is the default here, and None guides all of them.
"""

import torch
from torch import Tensor


class Guidance:
    """A network with guidance, called as guided(x, t, y) on a batch that is *not* doubled.

    SiT integrates each sample twice, side by side; here the solver sees every sample once. Fixed
    steps give the same samples; an adaptive solver measures its error on the samples alone.

    Args:
        model: a SiT, or anything with `forward_with_cfg` and `null_label`.
        scale: w >= 1.
        channels: how many leading channels are guided, None for all.
        interval: (low, high), guided at low <= t <= high only, t = 0 being noise; None for always.

    Raises `ValueError` for a scale below 1, an interval that is none, or if the model has no null
    label.
    """

    def __init__(
        self,
        model,
        scale: float,
        channels: int | None = 3,
        interval: tuple[float, float] | None = None,
    ):
        if not scale >= 1:
            raise ValueError(f"guidance scale {scale}: 1 means no guidance, less is not defined")
        if interval and not 0 <= interval[0] < interval[1] <= 1:
            raise ValueError(f"guidance interval {interval}: it must be low < high within [0, 1]")
        self.model, self.scale, self.channels, self.interval = model, scale, channels, interval
        self.null_label: int | None = model.null_label if scale > 1 else None

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if self.scale == 1 or not self.guided_at(t):
            return self.model(x, t, y)
        assert self.null_label is not None  # for the scale is above 1
        labels = torch.cat([y, torch.full_like(y, self.null_label)])
        doubled = self.model.forward_with_cfg(
            torch.cat([x, x]), torch.cat([t, t]), labels, self.scale, self.channels
        )
        return doubled[: len(x)]

    def guided_at(self, t: Tensor) -> bool:
        """Return whether these times (N,), all the same in a solver, lie in the interval."""
        if self.interval is None:
            return True
        low, high = self.interval
        return low - 1e-6 <= t[0].item() <= high + 1e-6  # float32's 0.3 is 0.30000001
