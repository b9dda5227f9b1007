"""Network passes of training and sampling, and their inputs, from the settings. No torch here."""

from data.data_config import TrainingData
from sampling.sample_config import ODE, SDE

EVALUATIONS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}  # of a step, ODE
LATENT_FACTOR, LATENT_CHANNELS = 8, 4  # of SD's autoencoders
IMAGE_SIZE = 256


def network_input(c: TrainingData) -> tuple[int, int]:
    """Return size and channels of what the network sees; ImageNet's where the data would tell."""
    digits = c.dataset_name == "digits"
    size = c.image_size or (8 if digits else IMAGE_SIZE)
    if (c.vae or ("none" if digits else "ema")) != "none":
        return size // LATENT_FACTOR, LATENT_CHANNELS
    return size, 1 if digits else 3


def network_passes(c: ODE | SDE) -> int | None:
    """Return the network passes for an image, None where the solver chooses its steps."""
    steps = c.num_sampling_steps - 1
    if isinstance(c, SDE):
        evaluations = steps * {"Euler": 1, "Heun": 2}[c.sampling_method]
        evaluations += c.last_step is not None
    elif c.sampling_method in EVALUATIONS:
        evaluations = steps * EVALUATIONS[c.sampling_method]
    else:
        return None
    return evaluations * (1 if c.cfg_scale == 1 else 2)  # at most: an interval saves some
