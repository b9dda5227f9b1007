"""Report of a study of layer pairs, at any time: CSV, Markdown and pictures.

FOLDER/report/cells.csv      every cell and evaluated step: its state and all metrics
FOLDER/report/summary.csv    every pair and weight: difference to vanilla, interval, verdict
FOLDER/report/report.md      the same as a page to read, with the failed cells
FOLDER/report/*.png          heat map, metric over lambda, metric over steps
"""

from pathlib import Path

from runtime.files import write_text
from sweeps.cells import seconds
from sweeps.metric_names import label
from sweeps.pair_findings import Findings, Row, change_of
from sweeps.pair_grid import PairPoint
from sweeps.pair_pictures import draw_all
from sweeps.report_text import as_csv, failure, progress_line
from sweeps.seed_statistics import rounded, spread


def write_report(findings: Findings) -> Path:
    """Write everything into FOLDER/report; return the Markdown file."""
    folder = findings.study.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "cells.csv", cells_csv(findings))
    write_text(folder / "summary.csv", summary_csv(findings))
    pictures = draw_all(findings, folder)
    write_text(folder / "report.md", markdown(findings, pictures))
    return folder / "report.md"


def cells_csv(f: Findings) -> str:
    names = list(dict.fromkeys(name for metrics in f.metrics.values() for name in metrics))
    rows = []
    for cell in f.cells:
        point = PairPoint.of(cell.settings)
        student, teacher = point.pair or ("", "")
        about = [cell.name, student, teacher, point.weight, point.seed, f.states[cell.name]]
        cost, reason = round(sum(seconds(cell).values()), 1), failure(cell)
        for step in f.study.steps:
            metrics = f.metrics.get((point, step), {})
            rows.append([*about, step, *(metrics.get(name, "") for name in names), cost, reason])
    head = ["cell", "student", "teacher", "lambda", "seed", "state", "step", *names]
    return as_csv([*head, "seconds", "failure"], rows)


def summary_csv(f: Findings) -> str:
    rows = []
    for row in f.rows:
        student, teacher = row.pair or ("", "")
        d = row.difference
        interval = [d.mean, d.low, d.high] if d and d.low is not None else ["", "", ""]
        mean = sum(row.values.values()) / len(row.values)
        deviation = spread(row.values)
        about = [student, teacher, row.weight, row.step, len(row.values)]
        rows.append(
            [*about, mean, "" if deviation is None else deviation, *interval, f.verdict(row)]
        )
    head = ["student", "teacher", "lambda", "step", "seeds", f.metric, "deviation"]
    return as_csv([*head, "difference", "low", "high", "verdict"], rows)


# --- Markdown


def markdown(f: Findings, pictures: list[tuple[str, Path]]) -> str:
    last, rows = f.study.steps[-1], f.at_end()
    lines = [f"# Layer pairs: {label(f.metric)}", "", progress_line(f.cells, f.states), ""]
    lines += ["```", f.study.config.base, f.study.config.sample, f.study.config.evaluate, "```", ""]
    if rows:
        lines += [f"## After {last:,} steps", "", *table(f, rows)]
        lines += [word for line in reading(f, rows) for word in ("", line)] + [""]
    for title, path in pictures:
        lines += [f"![{title}]({path.name})", ""]
    failed = [cell for cell in f.cells if f.states[cell.name] == "failed"]
    if failed:
        lines += ["## Failed", "", "| cell | why | log |", "|---|---|---|"]
        for cell in failed:
            why = failure(cell).replace("|", r"\|")
            lines.append(f"| {cell.name} | {why} | {cell.log.relative_to(f.study.folder)} |")
        lines += ["", "`--retry-failed` runs them again.", ""]
    return "\n".join(lines)


def overview_lines(f: Findings) -> list[str]:
    """Return the table of the last step and the failed cells, for the terminal."""
    rows, lines = f.at_end(), [progress_line(f.cells, f.states)]
    lines += ["", *table(f, rows), ""] if rows else []
    for cell in f.cells:
        if f.states[cell.name] == "failed":
            lines.append(f"failed: {cell.name}: {failure(cell)}; see {cell.log}")
    return lines


def table(f: Findings, rows: list[Row]) -> list[str]:
    percent = f"{100 * f.level:g}"
    lines = [
        f"| pair | λ | seeds | {label(f.metric)} | difference to vanilla, {percent}% interval | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        pair = f"{row.pair[0]} → {row.pair[1]}" if row.pair else "vanilla"
        weight = f"{row.weight:g}" if row.pair else ""
        verdict = f.verdict(row)
        interval = ""
        if d := change_of(row):
            mean, low, high = (rounded(v, d.half_width / 10, "+") for v in (d.mean, d.low, d.high))
            interval = f"{mean} ({low} to {high})"
        marked = f"**{verdict}**" if verdict in ("better", "worse") else verdict
        lines.append(
            f"| {pair} | {weight} | {len(row.values)} | {mean_and_spread(row)} | {interval} "
            f"| {marked} |"
        )
    return lines


def mean_and_spread(row: Row) -> str:
    mean, deviation = sum(row.values.values()) / len(row.values), spread(row.values)
    if deviation is None:
        return f"{mean:.4g}"
    return f"{rounded(mean, deviation)} ± {rounded(deviation, deviation)}"


def reading(f: Findings, rows: list[Row]) -> list[str]:
    """Return explanations of the table's words, and of how far the results hold."""
    compared = [row for row in rows if change_of(row)]
    percent = f"{100 * f.level:g}%"
    lines = [
        f"± is the standard deviation over seeds. Differences are to the vanilla run of the same "
        f"seed, with Student's t interval over seeds at {percent}. *better* and *worse* are said "
        f"only where it excludes zero; *none shown* means that it does not, not that there is no "
        f"difference. One seed has no spread, so its difference is left out."
    ]
    if compared:
        chance = (1 - f.level) * len(compared)
        lines.append(
            f"If no pair made a difference, about {chance:.2g} of these {len(compared)} intervals "
            f"would exclude zero all the same, and the best of many looks better than it is: "
            f"confirm it on new seeds."
        )
    return lines
