"""Pictures of measurements of blocks: one for each probe, and heat maps over pairs of blocks."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from evaluation.blocks.summary import by_name, rows_of
from runtime.files import replacing

DPI = 100
BAND = (0.25, 0.75)  # quantiles
STYLES = ("-", "--", ":", "-.")


def draw_probe(entries: Sequence[dict], path: Path) -> None:
    """Draw one probe of all checkpoints: over blocks, and over times where there are several.

    Checkpoints of one name are one line, their mean. The band is the middle half of what the
    checkpoints of that name give, or of the times where there is one checkpoint.
    """
    first = entries[0]
    several = len(first["times"]) > 1
    figure, axes = plt.subplots(
        1, 1 + several, figsize=(5.2 * (1 + several), 4), layout="constrained", squeeze=False
    )
    scale = 100 if first["percent"] else 1
    unit = ", %" if first["percent"] else ""
    for number, (name, group) in enumerate(by_name(entries).items()):
        colour = f"C{number}"
        for style, value in zip(STYLES, lines_of(first), strict=False):
            length = value.rpartition("_")[2]
            label = f"{name}, {length} in a row" if length.isdigit() else name
            # (checkpoints, times, blocks)
            rows = scale * np.array([rows_of(entry, value) for entry in group])
            over_blocks = rows.mean(axis=1) if len(group) > 1 else rows[0]
            blocks = first["blocks"][: rows.shape[2]]
            axes[0, 0].plot(
                blocks, over_blocks.mean(axis=0), style, marker=".", color=colour, label=label
            )
            if style == "-" and len(over_blocks) > 1:
                low, high = np.quantile(over_blocks, BAND, axis=0)
                axes[0, 0].fill_between(blocks, low, high, color=colour, alpha=0.15, linewidth=0)
            if several:
                over_times = rows.mean(axis=(0, 2))
                axes[0, 1].plot(first["times"], over_times, style, marker=".", color=colour)
    band = "checkpoints" if any(len(g) > 1 for g in by_name(entries).values()) else "t"
    mean = (
        f", mean over t (band: middle half of {band})" if several or band == "checkpoints" else ""
    )
    axes[0, 0].set(xlabel="block", ylabel=first["title"] + unit, title=f"by block{mean}")
    axes[0, 0].set_xticks(first["blocks"] if len(first["blocks"]) < 13 else first["blocks"][3::4])
    if several:
        axes[0, 1].set(xlabel="t (0: noise, 1: data)", title="by time, mean over blocks")
    for axis in axes.flat:
        if first["chance"] is not None:
            axis.axhline(scale * first["chance"], color="grey", linestyle=":", linewidth=1)
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    save(figure, path)


def lines_of(entry: dict) -> list[str]:
    """Return the headline, and the numbers of longer runs of blocks that are named after it."""
    headline = entry["headline"]
    more = [name for name in entry["values"] if name.rpartition("_")[2].isdigit()]
    return [headline, *(name for name in more if name.rpartition("_")[0] == headline)]


def draw_maps(entries: Sequence[dict], path: Path) -> None:
    """Draw the heat maps of one probe, a panel for each map of each checkpoint."""
    panels = [
        (f"{entry['name']}: {title}", np.array(matrix, dtype=float))
        for entry in entries
        for title, matrix in entry["maps"].items()
    ]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * len(panels), 4), layout="constrained", squeeze=False
    )
    low = min(matrix.min() for _, matrix in panels)
    high = max(matrix.max() for _, matrix in panels)
    for axis, (title, matrix) in zip(axes.flat, panels, strict=True):
        extent = (0.5, matrix.shape[1] + 0.5, 0.5, matrix.shape[0] + 0.5)
        picture = axis.imshow(
            matrix, origin="lower", extent=extent, cmap="magma", vmin=low, vmax=high
        )
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="block of the other", ylabel="block")
    figure.colorbar(picture, ax=axes.ravel().tolist())
    save(figure, path)


def save(figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
    plt.close(figure)
