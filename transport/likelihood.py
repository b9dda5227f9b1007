"""Log-likelihood by the instantaneous change of variables (Chen et al., arXiv 1806.07366).

    log p_1(x_1) = log p_0(x_0) - integral over t of div v(x_t, t)

The divergence is estimated by Hutchinson's e^T (dv/dx) e with one probe e of +-1 entries per
solve; the estimate is unbiased, and exact when dv/dx is diagonal.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def log_likelihood(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t_0: float,
    t_1: float,
    solve: Callable,
    probe: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (log p(x) in nats (N,), the noise x flows to), see `sample_ode_likelihood`."""
    if probe is None:
        probe = torch.randint(2, x.shape, device=x.device, dtype=x.dtype) * 2 - 1

    def augmented(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            v = velocity(x, t)
            (gradient,) = torch.autograd.grad(v, x, grad_outputs=probe)
        return v.detach(), (gradient * probe).flatten(1).sum(dim=1)

    start = (x, torch.zeros(len(x), dtype=x.dtype, device=x.device))
    with torch.no_grad():
        states, integrals = solve(augmented, start, t_1, t_0)
    # solved from t_1 down to t_0, so the integral has the opposite sign
    return standard_normal_log_density(states[-1]) + integrals[-1], states[-1]


def standard_normal_log_density(z: Tensor) -> Tensor:
    z = z.flatten(1)
    return -0.5 * (z.square().sum(dim=1) + z.shape[1] * math.log(2 * math.pi))


def bits_per_dimension(log_density: Tensor, dimensions: int) -> Tensor:
    """Convert nats per sample to bits per dimension of the *continuous* density; less is better."""
    return -log_density / (dimensions * math.log(2))
