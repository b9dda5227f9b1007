"""Curves and sample grids of training runs in one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from sweeps.run_records import RunRecord, smoothed, weight_for

FEW = 12  # values of which a moving average says nothing: they are drawn as they are
DPI = 110


def draw_curve(
    axis, run: RunRecord, key: str, label: str, smoothing: float | None, **style
) -> None:
    """Draw a logged number over steps: thin as it was logged, thick as a moving average."""
    steps, values = run.series(key)
    weight = weight_for(len(values) or 1, smoothing)
    if len(values) < FEW or not weight:
        marker = "o" if len(values) < FEW else None
        axis.plot(steps, values, label=label, marker=marker, markersize=3, **style)
        return
    axis.plot(steps, values, linewidth=0.7, alpha=0.3, **style)
    axis.plot(steps, smoothed(values, weight), label=label, **style)


def draw_picture(axis, path: Path, title: str) -> None:
    """Show an image file."""
    with Image.open(path) as picture:
        axis.imshow(picture.convert("RGB"))
    axis.set_title(title)
    axis.axis("off")


def tallness(path: Path) -> float:
    """Return height over width of an image file."""
    with Image.open(path) as picture:
        return picture.height / picture.width


def panels_of(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return the title of each panel and the pattern of the numbers in it, where there are any."""
    wanted = {
        "velocity loss": r"velocity_loss",
        "similarity of the paired blocks": r"similarity_\d+_\d+",
        "gradient norm": r"grad_norm",
        "FID": r"eval_fid",
        "pixel Fréchet distance, not FID": r"eval_pixel_frechet",
        "held-out velocity loss": r"val_loss",
    }
    return {
        title: pattern
        for title, pattern in wanted.items()
        if any(run.series(key)[0] for run in runs for key in run.keys(pattern))
    }


def draw_runs(
    runs: Sequence[RunRecord], grids: dict[str, Path], file: BinaryIO, smoothing: float | None
) -> None:
    """Write the picture: curves above, a row of sample grids below.

    Args:
        grids: the sample grid of each run by its name; may be empty.
        smoothing: weight of the past in the moving average, see `smoothed`; None: by length.

    Raises `ValueError` if no run has a curve.
    """
    titles = panels_of(runs)
    if not titles:
        names = ", ".join(str(run.folder) for run in runs)
        raise ValueError(f"{names}: no number that has a curve was logged; give runs of train.py")
    columns = 2 if len(titles) == 4 else min(3, len(titles)) or 1
    rows = -(-len(titles) // columns)
    width, heights = 4.6 * columns + 0.8, [3.4 * rows]
    if grids:
        heights.append(width / len(grids) * max(map(tallness, grids.values())) + 0.5)
    figure = plt.figure(figsize=(width, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat
    axes = parts[0].subplots(rows, columns, squeeze=False).flatten()
    colours = plt.get_cmap("tab10" if len(runs) <= 10 else "tab20")
    for axis, (title, pattern) in zip(axes, titles.items(), strict=False):
        for i, run in enumerate(runs):
            for j, key in enumerate(run.keys(pattern)):
                pair = " → ".join(key.split("_")[1:]) if key.startswith("similarity") else ""
                style = {"color": colours(i % colours.N), "linestyle": "-:"[j % 2]}
                draw_curve(axis, run, key, f"{run.name} {pair}".strip(), smoothing, **style)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in axes[len(titles) :]:
        axis.axis("off")
    if grids:
        below = parts[1].subplots(1, len(grids), squeeze=False).flat
        for axis, (name, grid) in zip(below, grids.items(), strict=True):
            draw_picture(axis, grid, f"{name}: step {int(grid.stem):,}")
    figure.savefig(file, dpi=DPI, format="png")
    plt.close(figure)
