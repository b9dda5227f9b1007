"""The settings of a sampling run: the checkpoint's own, completed by flags."""

from models.published import SIT_NAME
from models.trained import Trained, load_trained
from runtime.flags import flag
from sampling.solver_config import SolverConfig

OFFICIAL = {"vae": "ema", "path_type": "Linear", "prediction": "velocity", "sample_eps": None}
"""Settings of checkpoints that name none, as the official ones."""
FLAGS = ("model", "image_size", "num_classes", "vae", "path_type", "prediction", "sample_eps")


def open_checkpoint(c: SolverConfig) -> tuple[Trained, dict]:
    """Load the checkpoint that `c` names; return it and the settings of `settings_in_force`."""
    trained = load_trained(c.ckpt or SIT_NAME, c.weights, c.num_classes)
    return trained, settings_in_force(trained, {name: getattr(c, name) for name in FLAGS})


def settings_in_force(trained: Trained, given: dict) -> dict:
    """Return each setting from the checkpoint, else from its flag, else as in official ones.

    Args:
        given: values of some of the `FLAGS`, None for a flag that is left out.

    Returns at least vae, path_type, prediction, sample_eps, model and num_classes; image_size if
    anything names it. Raises `ValueError` for a flag that contradicts the checkpoint.
    """
    stored, transport = trained.settings, trained.settings.get("transport", {})
    known = {"model": trained.arch["name"], "num_classes": trained.arch["num_classes"]}
    known |= {key: stored[key] for key in ("image_size", "vae") if key in stored}
    known |= {key: transport[key] for key in ("path_type", "prediction") if key in transport}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in known.items():
        decodes_alike = name == "vae" and "none" not in (given.get(name), value)
        if name in given and given[name] != value and not decodes_alike:
            raise ValueError(
                f"{flag(name)} {given[name]}: the checkpoint says {value}; leave the flag out"
            )
    return OFFICIAL | known | {"sample_eps": transport.get("sample_eps")} | given
