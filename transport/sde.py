"""Fixed-step solvers of the reverse SDE, dx = drift dt + sqrt(2 w_t) dW, and its last step.

`N` grid points make N - 1 steps. The last step covers the remaining distance to the data without
noise, because the drift's score is unreliable there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from transport.diffusion import diffusion
from transport.transport import Transport


@dataclass(frozen=True)
class ReverseSDE:
    """The SDE of one network: `drift` and `diffusion` at (x, t), t being a number."""

    transport: Transport
    form: str
    norm: float
    model: Callable  # model(x, t), its labels bound

    def times(self, x: Tensor, t: Tensor | float) -> Tensor:
        return torch.ones(len(x), dtype=x.dtype, device=x.device) * t

    def diffusion(self, x: Tensor, t: Tensor | float) -> Tensor:
        return diffusion(self.transport.path, self.form, self.norm, x, self.times(x, t))

    def drift(self, x: Tensor, t: Tensor | float) -> Tensor:
        velocity, score = self.transport.velocity_and_score(self.model, x, self.times(x, t))
        return velocity + self.diffusion(x, t) * score


def euler_step(sde: ReverseSDE, x: Tensor, t: Tensor, dt: Tensor, noise: Tensor) -> Tensor:
    """Make a step of the Euler-Maruyama method."""
    dw = noise * dt.sqrt()
    return x + sde.drift(x, t) * dt + (2 * sde.diffusion(x, t)).sqrt() * dw


def heun_step(sde: ReverseSDE, x: Tensor, t: Tensor, dt: Tensor, noise: Tensor) -> Tensor:
    """Add the noise first, then one step of Heun's method for the drift."""
    x = x + (2 * sde.diffusion(x, t)).sqrt() * noise * dt.sqrt()
    slope = sde.drift(x, t)
    return x + dt / 2 * (slope + sde.drift(x + dt * slope, t + dt))


SDE_STEPS = {"Euler": euler_step, "Heun": heun_step}


def mean_step(sde: ReverseSDE, x: Tensor, t: float, size: float) -> Tensor:
    """Go to the SDE's mean: one Euler step of its drift."""
    return x + sde.drift(x, t) * size


def ode_step(sde: ReverseSDE, x: Tensor, t: float, size: float) -> Tensor:
    """Make one Euler step of the probability-flow ODE."""
    return x + sde.transport.velocity(sde.model, x, sde.times(x, t)) * size


def tweedie_step(sde: ReverseSDE, x: Tensor, t: float, size: float) -> Tensor:
    """Return, by Tweedie's formula, the posterior mean of the data, E[x_1 | x_t]."""
    times, path = sde.times(x, t), sde.transport.path
    alpha, sigma = (coefficient(times[:1])[0] for coefficient in (path.alpha, path.sigma))
    return (x + sigma**2 * sde.transport.score(sde.model, x, times)) / alpha


LAST_STEPS = {
    None: None,
    "Mean": mean_step,
    "Tweedie": tweedie_step,
    "Euler": ode_step,
}
