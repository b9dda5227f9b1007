"""Results of a sweep of guidance so far: a table, the same as CSV, and a picture.

FOLDER/guidance.md, FOLDER/guidance.csv    every finished cell, with all metrics
FOLDER/guidance.png                        one metric over the other, a line for each interval
"""

import json
from collections.abc import Sequence
from pathlib import Path

from runtime.files import write_text
from sweeps.cells import Cell, results, state
from sweeps.guidance_grid import EVERYWHERE, GuidancePoint
from sweeps.guidance_study import GuidanceStudy
from sweeps.metric_names import PIXEL_METRICS, RISING, label
from sweeps.report_text import as_csv, failures, progress_line

COSTS = {"nfe": "NFE", "network_passes": "network passes"}  # of the recipe


class GuidanceFindings:
    """The finished cells of a sweep, in the order of scale and interval.

    Raises `ValueError` if no cell has a metric of the picture.
    """

    def __init__(self, study: GuidanceStudy, cells: Sequence[Cell]):
        self.study, self.cells = study, list(cells)
        self.states = {cell.name: state(cell) for cell in cells}
        self.rows: dict[GuidancePoint, dict] = {}  # cost and all metrics of each point
        for cell in cells:
            if metrics := results(cell):
                recipe = json.loads((cell.folder / "samples.metrics.json").read_text())["recipe"]
                cost = {key: recipe[key]["mean"] for key in COSTS}
                self.rows[GuidancePoint.of(cell.settings)] = cost | metrics["evaluate"]
        for metric in study.metrics:
            if any(metric not in row for row in self.rows.values()):
                given = ", ".join(name for name in self.columns if name not in COSTS)
                raise ValueError(
                    f"--metrics {metric}: the evaluation gave {given}; choose of these"
                )

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    @property
    def best(self) -> GuidancePoint:
        """Return the point with the best value of the first metric."""
        metric = self.study.metrics[0]
        sign = -1 if metric in RISING else 1
        return min(self.rows, key=lambda point: sign * self.rows[point][metric])

    def title(self) -> str:
        network, c = self.study.network, self.study.sampling
        step = "" if network["step"] is None else f", step {network['step']:,}"
        solver = f"{type(c).__name__} {c.sampling_method}, {c.num_sampling_steps} points"
        return f"{network['model']}{step}; {solver}; {c.num_fid_samples:,} samples a point"


def write_guidance_report(f: GuidanceFindings) -> Path:
    """Write the table, the CSV and the picture; return the Markdown file."""
    folder, names = f.study.folder, f.columns
    head = ["scale", "low", "high", *names]
    cells = [[p.scale, *p.interval, *(row.get(n, "") for n in names)] for p, row in f.rows.items()]
    write_text(folder / "guidance.csv", as_csv(head, cells))
    if f.rows:
        draw(f, folder / "guidance.png")
    write_text(folder / "guidance.md", "\n".join(markdown(f)) + "\n")
    return folder / "guidance.md"


def markdown(f: GuidanceFindings) -> list[str]:
    c = f.study.config
    lines = [f"# Guidance: {f.title()}", "", progress_line(f.cells, f.states), ""]
    lines += ["```", f"--ckpt {c.ckpt}", c.sample, c.evaluate, "```", ""]
    if f.rows:
        lines += [*table(f), "", *reading(f), "", "![guidance](guidance.png)", ""]
    return lines + [f"- {line}" for line in failures(f.cells, f.states)]


def table(f: GuidanceFindings) -> list[str]:
    titles = [COSTS.get(name) or label(name) for name in f.columns]
    lines = ["| " + " | ".join(["scale", "guided at t in", *titles]) + " |"]
    lines.append("|---" * (2 + len(titles)) + "|")
    for point, row in f.rows.items():
        cells = [f"{point.scale:g}", interval_text(point), *map(number, map(row.get, f.columns))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def interval_text(point: GuidancePoint) -> str:
    return "-" if point.scale == 1 else f"[{point.interval[0]:g}, {point.interval[1]:g}]"


def reading(f: GuidanceFindings) -> list[str]:
    metric, best = f.study.metrics[0], f.best
    where = "without guidance" if best.scale == 1 else f"at t in {interval_text(best)}"
    lines = [f"Best {label(metric)}: scale {best.scale:g} {where}, {f.rows[best][metric]:.4g}."]
    if metric in PIXEL_METRICS:
        lines.append("Scored in pixel space: these numbers are not FID or Inception Score.")
    elif metric == "fid":
        lines.append("FID falls with the number of samples: compare at the same number only.")
    return lines


def lines_of(f: GuidanceFindings) -> dict[tuple[float, float], list[GuidancePoint]]:
    """Return {interval: points by scale}, each from the unguided point on if that was sampled."""
    lines: dict = {}
    for point in sorted(f.rows):
        if point.scale > 1:
            lines.setdefault(point.interval, []).append(point)
    unguided = GuidancePoint(1.0)
    if unguided in f.rows:
        lines = {interval: [unguided, *points] for interval, points in lines.items()}
    return lines or {EVERYWHERE: list(f.rows)}


def draw(f: GuidanceFindings, path: Path) -> None:
    """Draw the first metric over the second; a line joins the points of an interval by scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    vertical, horizontal = f.study.metrics
    figure, axes = plt.subplots(figsize=(7, 4.8), layout="constrained")
    for i, (interval, points) in enumerate(sorted(lines_of(f).items())):
        x, y = ([f.rows[point][name] for point in points] for name in (horizontal, vertical))
        name = f"t in [{interval[0]:g}, {interval[1]:g}]"
        axes.plot(x, y, marker="os^Dv<>"[i % 7], label=name, markersize=5)
    for point, row in f.rows.items():
        place = row[horizontal], row[vertical]
        if point.scale == 1:
            axes.plot(*place, "o", color="black", label="no guidance", zorder=3)
        text = f"{point.scale:g}"
        axes.annotate(text, place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    xlabel, ylabel = (f"{name} {label(name)[-1]}" for name in (horizontal, vertical))
    axes.set(xlabel=xlabel, ylabel=ylabel)  # names of the metrics file, and which way is better
    axes.set_title(f.title(), fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(title="guided at (labels: scale)")
    figure.savefig(path, dpi=110)
    plt.close(figure)
