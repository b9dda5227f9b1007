"""Floating-point operations of training and sampling, counted from the settings. No torch here.

A product of matrices counts a multiplication and an addition for each pair of numbers; what is
elementwise is not counted. A backward pass counts as two forward passes.
"""

from data.data_config import TrainingData
from models.sizes import dimensions
from sampling.sample_config import ODE, SDE

EVALUATIONS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}  # of a step, ODE
BACKWARD = 2  # a backward pass in forward passes
FREQUENCIES = 256  # of the time embedding's input (models/sit.py)
LATENT_FACTOR, LATENT_CHANNELS = 8, 4  # of SD's autoencoders
IMAGE_SIZE = 256


def transformer_blocks(depth: int, width: int, tokens: int) -> int:
    """Return the operations of plain transformer blocks on one sequence."""
    products = 12 * width**2 + 2 * tokens * width  # qkv, output and MLP; attention
    return 2 * depth * tokens * products


def forward_operations(model: str, size: int, channels: int) -> int:
    """Return the operations of a SiT's forward pass on one input of (channels, size, size)."""
    sizes = dimensions(model)
    depth, width, patch = sizes["depth"], sizes["hidden_size"], sizes["patch_size"]
    tokens, values = (size // patch) ** 2, channels * patch**2
    embedding = tokens * values * width + FREQUENCIES * width + width**2
    modulation = depth * 6 * width**2 + 2 * width**2
    output = tokens * width * 2 * values  # learn_sigma: twice the channels
    return transformer_blocks(depth, width, tokens) + 2 * (embedding + modulation + output)


def network_input(c: TrainingData) -> tuple[int, int]:
    """Return size and channels of what the network sees; ImageNet's where the data would tell."""
    size = c.image_size or IMAGE_SIZE
    if c.vae != "none":
        return size // LATENT_FACTOR, LATENT_CHANNELS
    return size, 1 if c.dataset_name == "digits" else 3


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
