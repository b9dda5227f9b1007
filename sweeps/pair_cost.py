"""Cost of a study of layer pairs: operations, network passes, hours from finished cells."""

from collections.abc import Sequence

from data.fitting import fitted
from runtime.progress import duration
from sampling.sample_config import ODE, SDE
from sweeps.cells import Cell, seconds, to_do
from sweeps.pair_study import PairStudy

EVALUATIONS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}  # of a step, ODE
BACKWARD = 2  # a backward pass in forward passes


def forward_flops(study: PairStudy) -> float:
    """Return the FLOPs of a forward pass on one image, counted on torch's meta device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from models import find_model

    c = fitted(study.training)
    latent = c.vae != "none"
    size, channels = (c.known_size // 8, 4) if latent else (c.known_size, 3)
    channels = 1 if c.dataset_name == "digits" and not latent else channels
    with torch.device("meta"):
        model = find_model(c.model)(
            input_size=size, in_channels=channels, num_classes=c.num_classes
        ).eval()
        x, t = torch.zeros(1, channels, size, size), torch.zeros(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x, t, torch.zeros(1, dtype=torch.long))
    return counter.get_total_flops()


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


def estimate(study: PairStudy, cells: Sequence[Cell], parallel: int) -> list[str]:
    """Return lines about the cost of the cells that are not finished."""
    left = [cell for cell in cells if to_do(cell)]
    lines = [f"{len(cells)} cells, {len(cells) - len(left)} of them finished"]
    forward, c = forward_flops(study), study.training
    images = study.steps[-1] * c.global_batch_size
    train = (1 + BACKWARD) * forward * images
    lines.append(
        f"training, each cell: {c.max_steps:,} steps x {c.global_batch_size} images x "
        f"{(1 + BACKWARD) * forward:.3g} operations = {train:.3g}"
    )
    passes, count = network_passes(study.sampling), study.sampling.num_fid_samples
    each = f" x {len(study.steps)} checkpoints" if len(study.steps) > 1 else ""
    if passes:
        sample = passes * count * forward * len(study.steps)
        lines.append(
            f"sampling, each cell: {count:,} images x {passes} network passes{each} = {sample:.3g}"
        )
        lines.append(f"all that is left: {len(left) * (train + sample):.3g} operations")
    else:
        lines.append(
            f"sampling, each cell: {count:,} images{each}; "
            f"{study.sampling.sampling_method} chooses its own steps"
        )
    times = [sum(seconds(cell).values()) for cell in cells if not to_do(cell)]
    if times and left:
        mean = sum(times) / len(times)
        rest = duration(mean * len(left) / parallel)
        lines.append(
            f"a finished cell took {duration(mean)} on average: about {rest} left, {parallel} at a "
            f"time"
        )
    return lines
