"""`Sampler`: from noise to data by the probability-flow ODE or a reverse SDE, and back.

Each `sample_*` method takes the settings and returns a function of (z, model, **model_kwargs), as
in SiT. Settings are checked at once, before any network is evaluated.

The grid of `num_steps = N` is SiT's: N points, so N - 1 steps of a fixed-step ODE or SDE solver;
an SDE solver's last step comes on top.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transport.diffusion import DIFFUSION_FORMS
from transport.likelihood import log_likelihood
from transport.sde import LAST_STEPS, SDE_STEPS, ReverseSDE
from transport.transport import Transport, check_choice

FIXED_ODE_METHODS = ("euler", "midpoint", "heun2", "heun3", "rk4")
ADAPTIVE_ODE_METHODS = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
ODE_METHODS = FIXED_ODE_METHODS + ADAPTIVE_ODE_METHODS
HALF = (torch.bfloat16, torch.float16)


class Sampler:
    """Samplers of the flow that `transport` and a network define.

    Noise of half precision is solved in float32: the network gets x in the noise's precision and t
    in float32, and what comes out has the noise's precision.
    """

    def __init__(self, transport: Transport):
        self.transport = transport

    def sample_ode(
        self,
        *,
        sampling_method: str = "dopri5",
        num_steps: int = 50,
        atol: float = 1e-6,
        rtol: float = 1e-3,
        reverse: bool = False,
        trajectory: bool = True,
    ) -> Callable[..., list[Tensor]]:
        """Solve dx/dt = velocity(x, t).

        Args:
            sampling_method: one of `ODE_METHODS`, solved by torchdiffeq.
            num_steps: grid points of a fixed-step method. An adaptive method (dopri5, ...)
                chooses its own steps; the grid then only says where to report.
            atol, rtol: tolerances of an adaptive method. Its error norm runs over the whole
                batch, so samples of one batch influence each other's steps.
            reverse: from data at t_1 to noise at t_0.
            trajectory: return the state at each grid point; otherwise first and last only, which
                saves memory and changes no value.

        Returns sample(z, model, **model_kwargs) -> list of tensors like z; [-1] is the result.
        """
        check_choice("sampling_method", sampling_method, ODE_METHODS)
        check_steps(num_steps, 2)
        check_tolerances(atol, rtol)
        t_0, t_1 = self.transport.ode_interval()
        solve = ode_solver(sampling_method, num_steps, atol, rtol)
        ends = (t_1, t_0) if reverse else (t_0, t_1)

        @torch.no_grad()
        def sample(z: Tensor, model, **model_kwargs) -> list[Tensor]:
            asked, dtype = in_float32(model, z), z.dtype

            def velocity(t: Tensor, x: Tensor) -> Tensor:
                return self.transport.velocity(asked, x, t.expand(len(x)), **model_kwargs)

            states = solve(velocity, state_of(z), *ends, trajectory=trajectory)
            return [state.to(dtype) for state in states]

        return sample

    def sample_ode_likelihood(
        self,
        *,
        sampling_method: str = "dopri5",
        num_steps: int = 50,
        atol: float = 1e-6,
        rtol: float = 1e-3,
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        """Log-likelihood of data under the flow, by the instantaneous change of variables.

        Arguments as for `sample_ode`. Returns evaluate(x, model, probe=None, **model_kwargs) ->
        (log p(x) in nats (N,), the noise that x flows to). `probe`: +-1 entries like x for
        Hutchinson's trace estimator, drawn when left out; one probe serves the whole solve, so
        that an adaptive solver sees a smooth function (FFJORD, arXiv 1810.01367).
        """
        check_choice("sampling_method", sampling_method, ODE_METHODS)
        check_steps(num_steps, 2)
        check_tolerances(atol, rtol)
        t_0, t_1 = self.transport.ode_interval()
        solve = ode_solver(sampling_method, num_steps, atol, rtol)

        def evaluate(x: Tensor, model, probe: Tensor | None = None, **model_kwargs):
            asked, dtype = in_float32(model, x), x.dtype

            def velocity(x: Tensor, t: Tensor) -> Tensor:
                return self.transport.velocity(asked, x, t.expand(len(x)), **model_kwargs)

            probe = None if probe is None else state_of(probe)
            density, noise = log_likelihood(velocity, state_of(x), t_0, t_1, solve, probe)
            return density, noise.to(dtype)

        return evaluate

    def sample_sde(
        self,
        *,
        sampling_method: str = "Euler",
        diffusion_form: str = "SBDM",
        diffusion_norm: float = 1.0,
        last_step: str | None = "Mean",
        last_step_size: float = 0.04,
        num_steps: int = 250,
        trajectory: bool = True,
    ) -> Callable[..., list[Tensor]]:
        """Solve the reverse SDE on a uniform grid (SiT, Sec. 2.4).

        Args:
            sampling_method: "Euler" (Euler-Maruyama) or "Heun".
            diffusion_form: one of `DIFFUSION_FORMS`; SiT's table uses "sigma".
            diffusion_norm: scale of the diffusion coefficient.
            last_step: "Mean", "Tweedie", "Euler" (of the ODE) or None.
            last_step_size: the distance in t that the last step covers.
            num_steps: grid points. The states after z are as many: one for each step of the grid,
                and the sample.
            trajectory: return every state; otherwise the last only.

        Returns sample(z, model, noise=None, **model_kwargs) -> list of tensors like z; [-1] is
        the sample. `noise(step)` gives the standard-normal draws of grid step 0, 1, ...
        """
        check_choice("sampling_method", sampling_method, SDE_STEPS)
        check_choice("diffusion_form", diffusion_form, DIFFUSION_FORMS)
        check_choice("last_step", last_step, LAST_STEPS)
        check_steps(num_steps, 2)
        if last_step is not None and not 0 < last_step_size < 1:
            raise ValueError(
                f"last_step_size {last_step_size}: it must lie between 0 and 1; for none at all "
                f"give last_step None"
            )
        if not 0 <= diffusion_norm < math.inf:
            raise ValueError(
                f"diffusion_norm must be finite and not negative, got {diffusion_norm}"
            )
        last_size = last_step_size if last_step is not None else 0.0
        t_0, t_1 = self.transport.sde_interval(diffusion_form, last_size, sampling_method == "Heun")
        if not t_0 < t_1:
            raise ValueError(
                f"last_step_size {last_size} and sample_eps {self.transport.sample_eps} leave "
                f"nothing between t = {t_0:g} and {t_1:g}: choose smaller ones"
            )
        step, finish = SDE_STEPS[sampling_method], LAST_STEPS[last_step]

        @torch.no_grad()
        def sample(z: Tensor, model, noise=None, **model_kwargs) -> list[Tensor]:
            asked, dtype = in_float32(model, z), z.dtype

            def bound(x: Tensor, t: Tensor) -> Tensor:
                return asked(x, t, **model_kwargs)

            sde = ReverseSDE(self.transport, diffusion_form, diffusion_norm, bound)
            grid = torch.linspace(t_0, t_1, num_steps, device=z.device)
            dt, x, states = grid[1] - grid[0], state_of(z), []
            for i, t in enumerate(grid[:-1]):
                draws = torch.randn_like(x) if noise is None else noise(i).to(x.dtype)
                x = step(sde, x, t, dt, draws)
                states.append(x)
            x = finish(sde, x, t_1, last_size) if finish else x
            return [state.to(dtype) for state in ([*states, x] if trajectory else [x])]

        return sample


def state_of(z: Tensor) -> Tensor:
    """Return z as a solver's state: in float32 where it is of half precision.

    A solver takes times in its state's precision, and half of it tells few of them apart.
    """
    return z.float() if z.dtype in HALF else z


def in_float32(model: Callable[..., Tensor], z: Tensor) -> Callable[..., Tensor]:
    """Return the network for that state: it still sees numbers of z's own precision."""
    if z.dtype not in HALF:
        return model
    return lambda x, t, **model_kwargs: model(x.to(z.dtype), t, **model_kwargs).float()


def ode_solver(method: str, num_steps: int, atol: float, rtol: float) -> Callable:
    """Return solve(f, state, start, stop, trajectory) -> states; `state` may be a tuple."""
    from torchdiffeq import odeint  # only samplers need it

    def solve(f, state, start: float, stop: float, trajectory: bool = False):
        first = state[0] if isinstance(state, tuple) else state
        grid = torch.linspace(start, stop, num_steps, device=first.device)
        report = grid if trajectory else grid[[0, -1]]
        if method in FIXED_ODE_METHODS:
            options: dict[str, Any] = {"grid_constructor": lambda f, y, t: grid}
            return odeint(f, state, report, method=method, options=options)
        # Left alone, torchdiffeq steps past the end and interpolates back. That would ask the
        # network at times it knows nothing of, and VP's sigma at times where there is none.
        options = {"step_t": grid[-1:]}
        try:
            return odeint(f, state, report, method=method, atol=atol, rtol=rtol, options=options)
        except AssertionError as error:
            raise step_too_small(error, method, atol, rtol) from None

    return solve


class StepTooSmall(ArithmeticError):
    """Failure of an adaptive solver to meet its tolerances; `str(error)` is for the user."""


def step_too_small(error: AssertionError, method: str, atol: float, rtol: float) -> Exception:
    """Return what torchdiffeq's "underflow in dt" means, and any other error as it is."""
    said = re.fullmatch(r"underflow in dt (\S+)", str(error))
    if not said:
        return error
    if not float(said[1]) > 0:  # an error that is NaN leaves no step
        return StepTooSmall(f"{method}: the network gave NaN or infinity")
    return StepTooSmall(
        f"{method} cannot keep its error below atol {atol:g}, rtol {rtol:g}: its step shrank to "
        f"{float(said[1]):.1g}, less than the rounding of t"
    )


def check_tolerances(atol: float, rtol: float) -> None:
    # an error of 0 / 0 would be taken for the network's
    if not (0 <= atol < math.inf and 0 <= rtol < math.inf and atol + rtol > 0):
        raise ValueError(
            f"atol {atol}, rtol {rtol}: tolerances must be finite and not negative, one above 0"
        )


def check_steps(num_steps: int, least: int) -> None:
    if num_steps < least:
        raise ValueError(f"num_steps counts grid points: at least {least}, got {num_steps}")
