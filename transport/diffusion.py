"""Diffusion coefficients w_t of the reverse SDE (SiT, Sec. 2.4 and Table 3).

    dx = (velocity + w_t score) dt + sqrt(2 w_t) dW

Every form gives samples of the same law from exact scores; they differ in discretisation error.
`norm` scales the coefficient (the flag --diffusion-norm). Tensors in, tensors out.
"""

import math

import torch
from torch import Tensor

from transport.interpolant import Interpolant, like

DIFFUSION_FORMS = {
    "constant": lambda path, t, norm: norm * torch.ones_like(t),
    # the forward diffusion of the score SDE; infinite at t = 0 on the Linear and GVP paths
    "SBDM": lambda path, t, norm: norm * path.score_weight(t),
    "sigma": lambda path, t, norm: norm * path.sigma(t)[0],
    "linear": lambda path, t, norm: norm * (1 - t),
    "decreasing": lambda path, t, norm: 0.25 * (norm * (math.pi * t).cos() + 1) ** 2,
    "increasing-decreasing": lambda path, t, norm: norm * (math.pi * t).sin() ** 2,
}


def diffusion(path: Interpolant, form: str, norm: float, x: Tensor, t: Tensor) -> Tensor:
    """Return w_t for times t (N,) as (N, 1, ..., 1), like x; `form` is a key of DIFFUSION_FORMS."""
    return DIFFUSION_FORMS[form](path, like(t, x), norm)
