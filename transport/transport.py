"""Training losses on a path, and what a trained network says about its flow.

A network predicts the velocity, the score or the noise x_0 at (x_t, t); `Transport` knows which,
draws training pairs, and turns predictions into the drift and score that the samplers need.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from transport.interpolant import INTERPOLANTS, VP, Interpolant, like

PREDICTIONS = ("velocity", "score", "noise")
LOSS_WEIGHTS = (None, "velocity", "likelihood")
SINGULAR_EPS = 1e-3  # distance from a time at which a coefficient is infinite
LIMIT_EPS = 1e-5  # distance from t = 1 where w_t score is 0 / 0 but tends to a limit


def create_transport(
    path_type: str = "Linear",
    prediction: str = "velocity",
    loss_weight: str | None = None,
    train_eps: float | None = None,
    sample_eps: float | None = None,
) -> "Transport":
    """Make a `Transport`, with SiT's default distances from the singular times.

    Args:
        path_type: "Linear", "GVP" or "VP".
        prediction: what the network predicts: "velocity", "score" or "noise".
        loss_weight: None, "velocity" or "likelihood"; the last two weight score and noise
            losses by time (SiT, App. A) and leave velocity losses as they are.
        train_eps, sample_eps: distance from the singular ends of [0, 1]. Default: 1e-5 and 1e-3
            for VP, 1e-3 both for score or noise prediction on the other paths, else 0.

    Raises `ValueError` naming the argument, its value and the choices.
    """
    check_choice("path_type", path_type, INTERPOLANTS)
    check_choice("prediction", prediction, PREDICTIONS)
    check_choice("loss_weight", loss_weight, LOSS_WEIGHTS)
    if path_type == "VP":
        default_train_eps, default_sample_eps = 1e-5, SINGULAR_EPS
    elif prediction != "velocity":
        default_train_eps, default_sample_eps = SINGULAR_EPS, SINGULAR_EPS
    else:
        default_train_eps, default_sample_eps = 0.0, 0.0
    train_eps = default_train_eps if train_eps is None else train_eps
    sample_eps = default_sample_eps if sample_eps is None else sample_eps
    for name, value in (("train_eps", train_eps), ("sample_eps", sample_eps)):
        if not 0 <= value < 0.5:
            raise ValueError(f"{name} must lie in [0, 0.5), got {value}")
    if prediction != "velocity" and sample_eps == 0:
        raise ValueError(
            f"sample_eps 0: with {prediction} prediction the drift is infinite at an end of "
            f"[0, 1]; leave it out, or give 0.001"
        )
    return Transport(INTERPOLANTS[path_type](), prediction, loss_weight, train_eps, sample_eps)


@dataclass(frozen=True)
class Transport:
    path: Interpolant
    prediction: str
    loss_weight: str | None
    train_eps: float
    sample_eps: float

    def training_losses(
        self,
        model,
        x1: Tensor,
        model_kwargs: dict | None = None,
        t: Tensor | None = None,
        x0: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the per-sample losses of one forward pass.

        Args:
            model: called as model(x_t, t, **model_kwargs).
            x1: data, (N, ...).
            t: times (N,); drawn uniformly from `training_interval()` when left out.
            x0: noise like x1; drawn from the standard normal when left out.

        Returns "loss" (N,), mean squared error over everything but the batch, and "pred", the
        network's output.
        """
        t = self.training_times(torch.rand(len(x1), device=x1.device)) if t is None else t
        x0 = torch.randn_like(x1) if x0 is None else x0
        x_t = self.path.x_t(t, x0, x1)
        prediction = model(x_t, t, **(model_kwargs or {}))
        return {"loss": self.sample_losses(prediction, t, x0, x1), "pred": prediction}

    def sample_losses(self, prediction: Tensor, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Compare what the network predicts at (x_t, t) with what it should: losses (N,)."""
        if self.prediction == "velocity":
            error = prediction - self.path.velocity(t, x0, x1)
        elif self.prediction == "noise":
            error = prediction - x0
        else:  # the score is -x_0 / sigma: an error in units of the noise
            error = prediction * self.path.sigma(like(t, x1))[0] + x0
        return self._time_weight(t) * error.float().square().flatten(1).mean(dim=1)

    def _time_weight(self, t: Tensor) -> Tensor | float:
        if self.prediction == "velocity" or self.loss_weight is None:
            return 1.0
        weight, sigma = self.path.score_weight(t), self.path.sigma(t)[0]
        return (weight / sigma) ** 2 if self.loss_weight == "velocity" else weight / sigma**2

    def velocity(self, model, x: Tensor, t: Tensor, **model_kwargs) -> Tensor:
        """Return the drift of the probability-flow ODE at (x, t)."""
        prediction = model(x, t, **model_kwargs)
        if self.prediction == "velocity":
            return prediction
        return self.path.velocity_from_score(self._as_score(prediction, x, t), x, t)

    def score(self, model, x: Tensor, t: Tensor, **model_kwargs) -> Tensor:
        return self._as_score(model(x, t, **model_kwargs), x, t)

    def velocity_and_score(
        self, model, x: Tensor, t: Tensor, **model_kwargs
    ) -> tuple[Tensor, Tensor]:
        """Return both, from one evaluation of the network."""
        prediction = model(x, t, **model_kwargs)
        score = self._as_score(prediction, x, t)
        if self.prediction == "velocity":
            return prediction, score
        return self.path.velocity_from_score(score, x, t), score

    def _as_score(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if self.prediction == "velocity":
            return self.path.score_from_velocity(prediction, x, t)
        if self.prediction == "noise":
            return self.path.score_from_noise(prediction, x, t)
        return prediction

    def training_interval(self) -> tuple[float, float]:
        """Return (t_0, t_1), from which training times are drawn."""
        return self._ends(self.train_eps)

    def training_times(self, uniform: Tensor) -> Tensor:
        """Map draws from U[0, 1) to training times."""
        t_0, t_1 = self.training_interval()
        return t_0 + (t_1 - t_0) * uniform

    def ode_interval(self) -> tuple[float, float]:
        """Return (t_0, t_1), between which the ODE is solved."""
        return self._ends(self.sample_eps)

    def _ends(self, eps: float) -> tuple[float, float]:
        if isinstance(self.path, VP):
            return 0.0, 1.0 - eps
        return (0.0, 1.0) if self.prediction == "velocity" else (eps, 1.0 - eps)

    def sde_interval(
        self, diffusion_form: str = "sigma", last_step_size: float = 0.04, sees_end: bool = False
    ) -> tuple[float, float]:
        """Return (t_0, t_1), between which the SDE is solved; the last step covers the rest.

        Args:
            diffusion_form: "SBDM" is infinite at t = 0 on Linear and GVP, which is kept away from.
            last_step_size: 0 without a last step.
            sees_end: the solver evaluates the network at t_1 itself, where the score of a
                velocity network is 0 / 0 if t_1 = 1.
        """
        t_0 = 0.0
        if not isinstance(self.path, VP):
            if self.prediction != "velocity":
                t_0 = self.sample_eps
            if diffusion_form == "SBDM":
                t_0 = self.sample_eps or SINGULAR_EPS
        t_1 = 1.0 - (last_step_size or self.sample_eps)
        if sees_end and t_1 == 1.0:
            t_1 = 1.0 - LIMIT_EPS
        return t_0, t_1


def check_choice(name: str, value, choices) -> None:
    if value not in choices:
        known = ", ".join(str(choice) for choice in choices)
        raise ValueError(f"{name} {value!r} is not known; choose from {known}")
