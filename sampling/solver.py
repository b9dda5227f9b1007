"""Choice of the solver that the settings name, and of the times between which it works."""

from collections.abc import Callable

from sampling.solver_config import ODESolver, SDESolver, SolverConfig
from transport import Sampler


def make_solver(sampler: Sampler, c: SolverConfig) -> Callable:
    """Return solve(z, model, y=labels) -> [..., samples]; an SDE's also takes noise(step)."""
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
    assert isinstance(c, ODESolver)  # settings of a run are of one or the other
    return sampler.sample_ode(
        sampling_method=c.sampling_method,
        num_steps=c.num_sampling_steps,
        trajectory=False,
        atol=c.atol,
        rtol=c.rtol,
        reverse=c.reverse,
    )


def solved_interval(sampler: Sampler, c: SolverConfig) -> list[float]:
    """Return [t_0, t_1], the ends of the grid; an SDE's last step continues from t_1."""
    transport = sampler.transport
    if not isinstance(c, SDESolver):
        return list(transport.ode_interval())
    last = c.last_step_size if c.last_step else 0.0
    return list(transport.sde_interval(c.diffusion_form, last, c.sampling_method == "Heun"))


def is_sde(config: SolverConfig) -> bool:
    return isinstance(config, SDESolver)
