"""Interpolants x_t = alpha_t x_1 + sigma_t x_0 between noise x_0 and data x_1 (SiT, Table 1).

All that a path needs to say is alpha, sigma and their derivatives; velocity, score and the
conversions between them follow (SiT, Sec. 2 and App. A). Coefficients are broadcast to the data:
for t of shape (N,) they come as (N, 1, ..., 1).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor


def like(t: Tensor, x: Tensor) -> Tensor:
    """Give (N,) the dimensions of x: (N, 1, ..., 1)."""
    return t.reshape(-1, *[1] * (x.dim() - 1))


class Interpolant(ABC):
    @abstractmethod
    def alpha(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and its derivative."""

    @abstractmethod
    def sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return sigma_t and its derivative."""

    @abstractmethod
    def alpha_ratio(self, t: Tensor) -> Tensor:
        """Return alpha'_t / alpha_t; infinite at t = 0 on paths that start from pure noise."""

    def x_t(self, t: Tensor, x_0: Tensor, x_1: Tensor) -> Tensor:
        t = like(t, x_1)
        return self.alpha(t)[0] * x_1 + self.sigma(t)[0] * x_0

    def velocity(self, t: Tensor, x_0: Tensor, x_1: Tensor) -> Tensor:
        """Return d x_t / dt, the target of velocity matching."""
        t = like(t, x_1)
        return self.alpha(t)[1] * x_1 + self.sigma(t)[1] * x_0

    def score_weight(self, t: Tensor) -> Tensor:
        """Return w_t in velocity = (alpha'_t / alpha_t) x + w_t score."""
        sigma, d_sigma = self.sigma(t)
        return self.alpha_ratio(t) * sigma**2 - sigma * d_sigma

    def velocity_from_score(self, score: Tensor, x: Tensor, t: Tensor) -> Tensor:
        t = like(t, x)
        return self.alpha_ratio(t) * x + self.score_weight(t) * score

    def score_from_velocity(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the score: that equation's inverse, with alpha / alpha' to be finite at t = 0."""
        t = like(t, x)
        (alpha, d_alpha), (sigma, d_sigma) = self.alpha(t), self.sigma(t)
        ratio = alpha / d_alpha
        return (ratio * velocity - x) / (sigma**2 - ratio * d_sigma * sigma)

    def score_from_noise(self, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return noise / -self.sigma(like(t, x))[0]


class Linear(Interpolant):
    """alpha = t, sigma = 1 - t."""

    def alpha(self, t):
        return t, torch.ones_like(t)

    def sigma(self, t):
        return 1 - t, -torch.ones_like(t)

    def alpha_ratio(self, t):
        return 1 / t


class GVP(Interpolant):
    """Generalised variance preserving: alpha = sin(pi t / 2), sigma = cos(pi t / 2)."""

    def alpha(self, t):
        angle = t * math.pi / 2
        return angle.sin(), angle.cos() * math.pi / 2

    def sigma(self, t):
        angle = t * math.pi / 2
        return angle.cos(), -angle.sin() * math.pi / 2

    def alpha_ratio(self, t):
        return math.pi / (2 * (t * math.pi / 2).tan())


class VP(Interpolant):
    """The variance-preserving diffusion with a linear beta schedule from 20 (noise) to 0.1 (data).

    alpha = exp(l_t) with l'_t = beta_t / 2, and sigma^2 = 1 - alpha^2 (Song et al.,
    arXiv 2011.13456). alpha_0 is about 0.0066, not 0: noise never quite loses the data.
    """

    beta_min, beta_max = 0.1, 20.0

    def half_beta(self, t: Tensor) -> Tensor:
        return (self.beta_min + (1 - t) * (self.beta_max - self.beta_min)) / 2

    def log_alpha(self, t: Tensor) -> Tensor:
        return -((1 - t) ** 2) * (self.beta_max - self.beta_min) / 4 - (1 - t) * self.beta_min / 2

    def alpha(self, t):
        alpha = self.log_alpha(t).exp()
        return alpha, alpha * self.half_beta(t)

    def sigma(self, t):
        squared = -torch.expm1(2 * self.log_alpha(t))  # 1 - alpha^2 has few digits near the data
        sigma = squared.sqrt()
        return sigma, (squared - 1) * self.half_beta(t) / sigma

    def alpha_ratio(self, t):
        return self.half_beta(t)

    def score_weight(self, t):
        return self.half_beta(t)  # the general formula, without dividing by sigma at the data end


INTERPOLANTS: dict[str, Callable[[], Interpolant]] = {"Linear": Linear, "GVP": GVP, "VP": VP}
