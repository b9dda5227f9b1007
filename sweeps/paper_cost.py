"""Cost of the paper's rows in GPU hours, from operations and an assumed share of the peak.

    hours = operations / (share x peak)

SHARE is what docs/cluster.md expects of this code on an H100, compiled; nothing of it has been
measured. Training multiplies in bf16, sampling in TF32 unless --bf16, at half the rate.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.forward_cost import BACKWARD, forward_operations, transformer_blocks
from sampling.sample_config import ODE
from sweeps.cells import Cell, to_do
from sweeps.operations import network_input, network_passes
from sweeps.paper_rows import PaperRow, Variant
from sweeps.paper_settings import RowSettings, settle
from training.config import TrainConfig

if TYPE_CHECKING:
    from sweeps.paper_study import PaperStudy

SHARE = 0.28
PEAK_BF16, PEAK_TF32 = 990e12, 495e12  # an H100's, dense, operations per second
BASIS = f"on H100s at {SHARE:.0%} of their peak, which is assumed and not measured"
ENCODER = transformer_blocks(depth=12, width=768, tokens=257)  # DINOv2-B at 224 pixels


def training_hours(c: TrainConfig, steps: int) -> float:
    """Return the GPU hours of so many steps, latents and features cached."""
    forward = forward_operations(c.model, *network_input(c))
    image = (1 + BACKWARD) * forward
    if c.loss_type == "sra":
        image += forward  # of the EMA
    elif "repa" in c.loss_type and not c.repa.repa_features:
        image += ENCODER
    peak = PEAK_BF16 if c.engine.precision in ("auto", "bf16") else PEAK_TF32
    return steps * c.global_batch_size * image / (SHARE * peak) / 3600


def sampling_hours(settings: RowSettings) -> float:
    """Return the GPU hours of one set of samples; an adaptive solver is taken for Heun's 250."""
    c, t = settings.sample, settings.train
    forward = forward_operations(t.model, *network_input(t))
    passes = network_passes(c) or network_passes(ODE(sampling_method="heun2")) or 0
    peak = PEAK_BF16 if c.bf16 else PEAK_TF32
    return c.num_fid_samples * passes * forward / (SHARE * peak) / 3600


def row_hours(row: PaperRow) -> tuple[float, float]:
    """Return the GPU hours of training and of sampling a whole row with one seed."""
    settings = [settle(row, Variant(sample=v.sample)) for v in row.variants]
    sample = sum(map(sampling_hours, settings)) * max(1, len(row.curve))
    trainings = 0 if row.checkpoint else len({variant.train for variant in row.variants})
    return trainings * training_hours(settings[0].train, settings[0].steps), sample


def hours_text(hours: float) -> str:
    """Write hours with two digits: 0.42, 2.3, 73, 1,500."""
    if hours < 9.95:
        return f"{hours:.2g}"
    digits = len(str(round(hours))) - 2
    return f"{round(hours, -digits):,.0f}"


def cost_line(row: PaperRow) -> str:
    """Return the line about cost at the head of a recipe."""
    train, sample = row_hours(row)
    parts = [f"{hours_text(train)} GPU hours of training"] if train else []
    parts += [f"{hours_text(sample)} {'of' if train else 'GPU hours of'} sampling"]
    return f"Cost: {', '.join(parts)} (H100s at {SHARE:.0%} of peak: assumed)."


def estimate_left(study: "PaperStudy", cells: Sequence[Cell]) -> list[str]:
    """Return lines about the cost of the cells that are not finished."""
    left = [cell for cell in cells if to_do(cell)]
    lines = [f"{len(cells)} cells, {len(cells) - len(left)} of them finished"]
    if study.config.miniature:
        return [*lines, "miniature: under a minute a cell on two CPU cores"] if left else lines
    trained: dict[Path, int] = {}  # step that each run reaches, in an earlier cell too
    total = 0.0
    for cell in left:
        _, _, settings = study.row(study.load_points([cell.settings])[0])
        train = sample = 0.0
        for command in to_do(cell):
            if command.name.startswith("train"):
                path = cell.path(command.outputs[0])
                run, step = path.parent, int(path.stem)
                start = max(trained.get(run, 0), reached(run))
                train += training_hours(settings.train, max(0, step - start))
                trained[run] = max(start, step)
            elif command.name.startswith("sample"):
                sample += sampling_hours(settings)
        total += train + sample
        hours = f"{hours_text(train)} GPU hours of training, {hours_text(sample)} of sampling"
        lines.append(f"{cell.name}: {hours}")
    return [*lines, f"all that is left: {hours_text(total)} GPU hours {BASIS}"] if left else lines


def reached(checkpoints: Path) -> int:
    """Return the last step of which a checkpoint is there."""
    return max(
        (int(path.stem) for path in checkpoints.glob("*.pt") if path.stem.isdigit()), default=0
    )
