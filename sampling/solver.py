"""The solver that the settings ask for, and what the recipe says of it."""

import dataclasses
from collections.abc import Callable

from sampling.config import ODE, SDE, SampleConfig
from transport import Sampler


def make_solver(sampler: Sampler, c: ODE | SDE) -> Callable:
    """solve(z, model, y=labels) -> [..., samples]; an SDE's also takes noise(step)."""
    common = dict(
        sampling_method=c.sampling_method, num_steps=c.num_sampling_steps, trajectory=False
    )
    if is_sde(c):
        return sampler.sample_sde(
            diffusion_form=c.diffusion_form,
            diffusion_norm=c.diffusion_norm,
            last_step=c.last_step,
            last_step_size=c.last_step_size,
            **common,
        )
    return sampler.sample_ode(atol=c.atol, rtol=c.rtol, reverse=c.reverse, **common)


def describe_solver(sampler: Sampler, c: ODE | SDE) -> dict:
    """The part of the recipe that names the solver, its settings and the grid's ends."""
    common = {f.name for f in dataclasses.fields(SampleConfig)}
    own = sorted({f.name for f in dataclasses.fields(c)} - common)
    named = {"solver": type(c).__name__, "num_sampling_steps": c.num_sampling_steps}
    return named | {name: getattr(c, name) for name in own} | {"interval": interval(sampler, c)}


def interval(sampler: Sampler, c: ODE | SDE) -> list[float]:
    """[t_0, t_1], between which the grid lies; an SDE's last step goes on from there."""
    transport = sampler.transport
    if not is_sde(c):
        return list(transport.ode_interval())
    last = c.last_step_size if c.last_step else 0.0
    return list(transport.sde_interval(c.diffusion_form, last, c.sampling_method == "Heun"))


def is_sde(config: ODE | SDE) -> bool:
    return isinstance(config, SDE)
