"""Pictures of a study of layer pairs. Differences without a spread are not drawn."""

import dataclasses
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from sweeps.metric_names import label
from sweeps.pair_findings import Change, Findings, Row, change_of
from sweeps.pair_grid import Pair
from sweeps.seed_statistics import rounded

COLUMNS = 4
MOST_PANELS = 24
DPI = 110


def draw_all(f: Findings, folder: Path) -> list[tuple[str, Path]]:
    """Draw every picture that has enough results; return (title, file) of each."""
    titles = {
        "heatmap.png": ("Change against vanilla, by student and teacher", heat_map),
        "lambda.png": ("Change against vanilla over lambda", over_lambda),
        "steps.png": ("The metric over training steps", over_steps),
    }
    drawn = []
    for name, (title, draw) in titles.items():
        figure = draw(f)
        if figure is None:
            (folder / name).unlink(missing_ok=True)  # of an earlier report
            continue
        figure.savefig(folder / name, dpi=DPI)
        plt.close(figure)
        drawn.append((title, folder / name))
    return drawn


def changes(rows: list[Row]) -> list[Change]:
    """Return the changes that the rows show."""
    return [change for row in rows if (change := change_of(row))]


def panels(count: int, width: float, height: float, **options):
    """Make a figure with `count` axes in rows of COLUMNS."""
    columns = min(COLUMNS, count)
    shape = math.ceil(count / columns), columns
    size = max(5.5, width * columns), height * shape[0] + 0.6
    figure, axes = plt.subplots(
        *shape, figsize=size, squeeze=False, layout="constrained", **options
    )
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat[:count])


def heat_map(f: Findings):
    """Draw mean difference and half-width in each square, framed where it excludes zero."""
    rows = [row for row in f.at_end() if row.pair]
    known = changes(rows)
    if not known:
        return None
    students, teachers = ([row.pair[i] for row in rows if row.pair] for i in (0, 1))
    extent = min(teachers) - 0.5, max(teachers) + 0.5, max(students) + 0.5, min(students) - 0.5
    weights = sorted({row.weight for row in rows})
    width, height = (0.72 * abs(extent[i + 1] - extent[i]) for i in (0, 2))
    figure, axes = panels(len(weights), width + 0.8, height + 1)
    largest = max(abs(change.mean) for change in known) or 1.0
    norm = TwoSlopeNorm(0, -largest, largest)
    colours = plt.get_cmap("RdBu" if f.rising else "RdBu_r")  # blue is better
    for axis, weight in zip(axes, weights, strict=True):
        draw_squares(f, axis, [row for row in rows if row.weight == weight], norm, colours)
        axis.set(title=f"λ = {weight:g}", xlabel="teacher block", ylabel="student block")
        axis.set(xlim=extent[:2], ylim=extent[2:], aspect="equal", facecolor="0.93")
        axis.set_xticks(range(min(teachers), max(teachers) + 1))
        axis.set_yticks(range(min(students), max(students) + 1))
    image = plt.cm.ScalarMappable(norm, colours)
    figure.colorbar(image, ax=axes, label="change against vanilla (blue is better)", shrink=0.8)
    figure.suptitle(
        f"{label(f.metric)} after {f.study.steps[-1]:,} steps:\nchange against vanilla of the same "
        f"seed,\n± {100 * f.level:g}% interval; framed where that excludes zero"
    )
    return figure


def draw_squares(f: Findings, axis, rows: list[Row], norm, colours) -> None:
    for row in rows:
        assert row.pair is not None  # there is no square for vanilla
        student, teacher = row.pair
        text, colour, black = f"{len(row.values)} seed", "white", True
        if d := change_of(row):
            text = f"{rounded(d.mean, d.half_width, '+')}\n±{rounded(d.half_width, d.half_width)}"
            colour, black = colours(norm(d.mean)), abs(norm(d.mean) - 0.5) < 0.35
        corner = teacher - 0.5, student - 0.5
        axis.add_patch(plt.Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white"))
        axis.text(teacher, student, text, ha="center", va="center", fontsize=7,
                  color="black" if black else "white")  # fmt: skip
        if f.verdict(row) in ("better", "worse"):
            inner = teacher - 0.46, student - 0.46
            axis.add_patch(plt.Rectangle(inner, 0.92, 0.92, fill=False, linewidth=2))


def over_lambda(f: Findings):
    """Draw difference and interval over lambda: a panel per student, a line per teacher."""
    known = changes(f.at_end())
    if not known:
        return None
    students = sorted({change.student for change in known})
    weights = sorted({change.row.weight for change in known})
    figure, axes = panels(len(students), 3.6, 3.0, sharey=True)
    teachers = sorted({change.teacher for change in known})
    colours = dict(zip(teachers, plt.cm.viridis(np.linspace(0, 0.9, len(teachers))), strict=True))
    for axis, student in zip(axes, students, strict=True):
        axis.axhline(0, color="black", linewidth=1)
        of_student = [change for change in known if change.student == student]
        present = sorted({change.teacher for change in of_student})
        for i, teacher in enumerate(present):
            mine = [change for change in of_student if change.teacher == teacher]
            shift = (i - (len(present) - 1) / 2) * 0.6 / max(4, len(present))
            axis.errorbar(
                [weights.index(change.row.weight) + shift for change in mine],
                [change.mean for change in mine],
                [change.half_width for change in mine],
                marker="o", markersize=4, capsize=2, color=colours[teacher], label=f"{teacher}",
            )  # fmt: skip
        axis.set(title=f"student {student}", xlabel="λ")
        axis.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
        axis.set_xlim(-0.5, len(weights) - 0.5)
        axis.legend(title="teacher", fontsize=7, title_fontsize=7)
        axis.grid(alpha=0.3)
    figure.supylabel("change against vanilla")
    figure.suptitle(
        f"{label(f.metric)} after {f.study.steps[-1]:,} steps, {100 * f.level:g}% interval"
    )
    return figure


def over_steps(f: Findings):
    """Draw a panel for each pair: every seed as a thin line, the mean over seeds as a thick one."""
    if len(f.steps) < 2:
        return None
    baseline = [row for row in f.rows if row.pair is None]
    pairs, which = pairs_to_draw(f)
    weights = sorted({row.weight for row in f.rows if row.pair})
    colours = dict(zip(weights, plt.cm.plasma(np.linspace(0.1, 0.8, len(weights))), strict=True))
    figure, axes = panels(len(pairs) or 1, 3.6, 3.0, sharey=True, sharex=True)
    for axis, pair in zip(axes, pairs or [None], strict=True):
        seeds = {seed for row in f.rows if row.pair == pair for seed in row.values}
        draw_lines(axis, [only(row, seeds) for row in baseline], "black", "vanilla")
        for weight in weights:
            mine = [row for row in f.rows if (row.pair, row.weight) == (pair, weight)]
            draw_lines(axis, mine, colours[weight], f"λ = {weight:g}")
        axis.set(title=f"{pair[0]} → {pair[1]}" if pair else "vanilla", xlabel="step")
        axis.tick_params(labelbottom=True)
        if not f.rising and all(value > 0 for row in f.rows for value in row.values.values()):
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.supylabel(label(f.metric))
    figure.suptitle(f"Thin: each seed. Thick: their mean{which}")
    return figure


def pairs_to_draw(f: Findings) -> tuple[list, str]:
    """Return all pairs, or the best if there are too many, and words that say so."""
    pairs = sorted({row.pair for row in f.rows if row.pair})
    if len(pairs) <= MOST_PANELS:
        return pairs, ""
    best: dict[Pair, float] = {}
    for row in f.at_end():
        if row.pair is None:
            continue
        mean = sum(row.values.values()) / len(row.values) * (-1 if f.rising else 1)
        best[row.pair] = min(mean, best.get(row.pair, math.inf))
    order = sorted(pairs, key=lambda pair: best.get(pair, math.inf))
    return sorted(
        order[:MOST_PANELS]
    ), f". {MOST_PANELS} of {len(pairs)} pairs, the best at the end"


def only(row: Row, seeds: set[int]) -> Row:
    """Return a row with the given seeds alone, to be drawn beside a pair with the same seeds."""
    values = {seed: value for seed, value in row.values.items() if seed in seeds}
    return dataclasses.replace(row, values=values)


def draw_lines(axis, rows: list[Row], colour, name: str) -> None:
    """Draw the metric of one variant over steps, and the mean where all seeds are finished."""
    seeds = sorted({seed for row in rows for seed in row.values})
    for seed in seeds:
        mine = [row for row in rows if seed in row.values]
        steps, values = [row.step for row in mine], [row.values[seed] for row in mine]
        axis.plot(steps, values, color=colour, linewidth=0.7, alpha=0.5)
    whole = [row for row in rows if len(row.values) == len(seeds)]
    if seeds:
        means = [sum(row.values.values()) / len(row.values) for row in whole]
        label = f"{name}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        axis.plot([r.step for r in whole], means, color=colour, linewidth=2, marker="o",
                  markersize=3, label=label)  # fmt: skip
