"""Cost of a study of layer pairs: operations, network passes, hours from finished cells."""

from collections.abc import Sequence

from data.fitting import fitted
from models.forward_cost import BACKWARD, forward_operations
from runtime.progress import duration
from sweeps.cells import Cell, seconds, to_do
from sweeps.operations import network_input, network_passes
from sweeps.pair_study import PairStudy


def forward_flops(study: PairStudy) -> int:
    """Return the operations of a forward pass on one image."""
    c = study.training
    return forward_operations(c.model, *network_input(fitted(c)))


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
