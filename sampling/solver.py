"""The solver that the settings ask for, and between which times it works."""

from collections.abc import Callable

from sampling.solver_config import ODESolver, SDESolver
from transport import Sampler


def make_solver(sampler: Sampler, c: ODESolver | SDESolver) -> Callable:
    """solve(z, model, y=labels) -> [..., samples]; an SDE's also takes noise(step)."""
    if isinstance(c, SDESolver):
        return sampler.sample_sde(
            sampling_method=c.sampling_method,
            num_steps=c.num_sampling_steps,
            trajectory=False,
            diffusion_form=c.diffusion_form,
            diffusion_norm=c.diffusion_norm,
            last_step=c.last_step,
            last_step_size=c.last_step_size,
        )
    return sampler.sample_ode(
        sampling_method=c.sampling_method,
        num_steps=c.num_sampling_steps,
        trajectory=False,
        atol=c.atol,
        rtol=c.rtol,
        reverse=c.reverse,
    )


def solved_interval(sampler: Sampler, c: ODESolver | SDESolver) -> list[float]:
    """[t_0, t_1], between which the grid lies; an SDE's last step goes on from there."""
    transport = sampler.transport
    if not isinstance(c, SDESolver):
        return list(transport.ode_interval())
    last = c.last_step_size if c.last_step else 0.0
    return list(transport.sde_interval(c.diffusion_form, last, c.sampling_method == "Heun"))


def is_sde(config: ODESolver | SDESolver) -> bool:
    return isinstance(config, SDESolver)
