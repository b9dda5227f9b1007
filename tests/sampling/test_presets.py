"""Presets are sets of flags, in the order that lets the user's win."""

import typing

import pytest

from runtime.command import parse_command
from sampling.presets import PRESETS, Preset, expand_preset
from sampling.sample_config import ODE, SDE, check_sample_config


def parsed(*args):
    return parse_command({"ODE": ODE, "SDE": SDE}, expand_preset(list(args)))


def test_every_name_on_the_command_line_is_a_preset_and_valid():
    assert set(typing.get_args(Preset)) == set(PRESETS)
    for name, (solver, _) in PRESETS.items():
        config = parsed("--preset", name)
        assert type(config).__name__ == solver and config.preset == name
        check_sample_config(config)


def test_the_papers_table_is_heun_with_250_points():
    config = parsed("ODE", "--preset", "paper-ode-heun250", "--ckpt", "x.pt")
    assert (config.sampling_method, config.num_sampling_steps) == ("heun2", 250)
    assert config.cfg_scale == 1 and config.ckpt == "x.pt"


def test_repas_interval_is_turned_into_the_projects_time():
    """Noise-time [0, 0.7] there is t in [0.3, 1] here."""
    config = parsed("--preset", "repa-sde-interval")
    assert config.guidance_interval == (0.3, 1.0) and config.cfg_scale == 1.8
    assert config.last_step_size == 0.04 and config.diffusion_form == "sigma"


@pytest.mark.parametrize("before", [True, False])
def test_flags_override_a_preset_wherever_they_stand(before):
    preset, own = ["--preset=sit-sde-cfg1.5"], ["--cfg-scale", "2", "--num-sampling-steps", "50"]
    config = parsed("SDE", *(own + preset if before else preset + own))
    assert (config.cfg_scale, config.num_sampling_steps) == (2.0, 50)
    assert config.diffusion_form == "sigma"


def test_another_solver_than_the_presets_is_refused():
    with pytest.raises(ValueError, match="--preset paper-ode-heun250 is for ODE, not SDE"):
        expand_preset(["SDE", "--preset", "paper-ode-heun250"])


def test_without_a_preset_nothing_is_added():
    assert expand_preset(["ODE", "--ckpt", "x"]) == ["ODE", "--ckpt", "x"]
    assert expand_preset([]) == [] and expand_preset(["--preset"]) == ["--preset"]


@pytest.mark.parametrize("words", [["--preset", "nope"], ["ODE", "--preset=nope", "--ckpt", "x"]])
def test_a_preset_that_there_is_not_is_named(words):
    with pytest.raises(ValueError, match="--preset nope: there is no such preset; choose from pap"):
        expand_preset(words)
