"""Times at which paths start and end, and what `create_transport` refuses."""

import pytest
import torch

from transport import Sampler, create_transport


@pytest.mark.golden_family("eps")
def test_eps_defaults_are_golden(key, golden):
    _, path, prediction = key.split("/")
    transport = create_transport(path, prediction)
    assert [transport.train_eps, transport.sample_eps] == golden(key).tolist()


@pytest.mark.golden_family("interval")
def test_interval_is_golden(key, golden):
    _, path, prediction, kind = key.split("/")
    transport = create_transport(path, prediction)
    ends = transport.ode_interval() if kind == "ode" else transport.sde_interval("sigma", 0.04)
    assert list(ends) == pytest.approx(golden(key).tolist(), abs=1e-12)


@pytest.mark.parametrize(
    ("path", "prediction"),
    [
        ("VP", "velocity"),
        ("VP", "noise"),
        ("Linear", "score"),
        ("Linear", "noise"),
        ("GVP", "score"),
    ],
)
def test_eps_is_never_left_unset(path, prediction):
    transport = create_transport(path, prediction)
    assert 0 < transport.train_eps <= 1e-3
    assert transport.sample_eps == 1e-3


def test_given_eps_replaces_each_default_on_its_own():
    transport = create_transport("Linear", "noise", train_eps=0.02)
    assert (transport.train_eps, transport.sample_eps) == (0.02, 1e-3)
    assert transport.training_interval() == (0.02, 0.98)
    transport = create_transport("Linear", "noise", sample_eps=0.05)
    assert (transport.train_eps, transport.sample_eps) == (1e-3, 0.05)
    assert transport.ode_interval() == (0.05, 0.95)


@pytest.mark.parametrize("path", ["Linear", "GVP", "VP"])
@pytest.mark.parametrize("prediction", ["score", "noise"])
def test_sampling_to_the_singular_ends_is_refused(path, prediction):
    with pytest.raises(ValueError, match=r"sample_eps 0: .* infinite"):
        create_transport(path, prediction, sample_eps=0.0)


def test_training_times_map_the_unit_interval_onto_the_training_interval():
    uniform = torch.tensor([0.0, 0.5, 1.0])
    for transport, expected in (
        (create_transport(), [0.0, 0.5, 1.0]),
        (create_transport("GVP", "score", train_eps=0.1), [0.1, 0.5, 0.9]),
        (create_transport("VP", train_eps=0.2), [0.0, 0.4, 0.8]),  # VP is singular at t = 1 only
    ):
        torch.testing.assert_close(transport.training_times(uniform), torch.tensor(expected))


@pytest.mark.parametrize("path", ["Linear", "GVP"])
@pytest.mark.parametrize("prediction", ["velocity", "score", "noise"])
def test_sbdm_keeps_away_from_time_0_where_it_is_infinite(path, prediction):
    assert create_transport(path, prediction).sde_interval("SBDM")[0] == 1e-3
    assert create_transport(path, prediction, sample_eps=0.01).sde_interval("SBDM")[0] == 0.01


def test_sde_without_last_step_goes_to_the_end_less_sample_eps():
    assert create_transport().sde_interval("sigma", 0.0) == (0.0, 1.0)
    assert create_transport("VP").sde_interval("sigma", 0.0) == (0.0, 0.999)
    assert create_transport("Linear", "noise").sde_interval("sigma", 0.0) == (0.001, 0.999)


def test_solver_that_sees_the_end_is_kept_off_the_singular_time():
    t_1 = create_transport().sde_interval("sigma", 0.0, sees_end=True)[1]
    assert 0.999 < t_1 < 1
    assert create_transport().sde_interval("sigma", 0.04, sees_end=True)[1] == 0.96


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("path_type", "linear"),
        ("prediction", "x0"),
        ("loss_weight", "None"),
        ("train_eps", -0.1),
        ("train_eps", 0.5),
        ("sample_eps", 0.7),
        ("sample_eps", float("nan")),
    ],
)
def test_bad_argument_is_refused_by_name_and_value(argument, value):
    with pytest.raises(ValueError) as error:
        create_transport(**{argument: value})
    assert argument in str(error.value) and str(value) in str(error.value)


@pytest.mark.parametrize(
    ("eps", "settings"),
    [(None, dict(last_step_size=0.9995)), (0.4, dict(last_step_size=0.7, diffusion_form="SBDM"))],
)
def test_a_last_step_that_leaves_no_interval_is_refused(eps, settings):
    sampler = Sampler(create_transport("Linear", "noise", sample_eps=eps))
    with pytest.raises(ValueError, match=r"last_step_size 0\.\d+ and sample_eps 0\.\d+ leave"):
        sampler.sample_sde(**settings)
