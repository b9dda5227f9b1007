"""Networks that were trained with time running from data (t = 0) to noise (t = 1), as REPA's.

On the linear path the two conventions describe the same flow,

    v(x, t) = - v_reversed(x, 1 - t),

so such a network is turned around once, here, and everything else is left as it is.
"""

from torch import Tensor


class ReversedTime:
    """A velocity network on the linear path, seen in this project's direction of time."""

    def __init__(self, model):
        self.model = model

    @property
    def null_label(self) -> int:
        return self.model.null_label

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return -self.model(x, 1 - t, y)

    def forward_with_cfg(self, x: Tensor, t: Tensor, *args) -> Tensor:
        return -self.model.forward_with_cfg(x, 1 - t, *args)
