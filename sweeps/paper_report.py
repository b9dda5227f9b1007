"""The report on the paper's rows: ours beside what was published, in a table, as CSV and drawn.

FOLDER/report.md, report.csv     every row that was asked for
FOLDER/rows.png                  ours and the published values, with intervals
FOLDER/curve.png                 FID over steps beside the paper's points, once there are some
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.files import write_text
from sweeps.cells import Cell, state
from sweeps.metric_names import FID, PIXELS, label
from sweeps.paper_findings import Finding, find
from sweeps.paper_miniature import SAYS
from sweeps.paper_verdict import REFERENCE_IMAGES, SAMPLES, Scored
from sweeps.report_text import aligned_table, as_csv, failures, progress_line
from sweeps.seed_statistics import rounded

if TYPE_CHECKING:
    from sweeps.paper_study import PaperStudy

READING = (
    f"- reproduced: the difference is within two standard deviations over seeds, or for one seed "
    f"within the bootstrap's 95 % interval, with {SAMPLES:,} samples against ADM's reference "
    f"({REFERENCE_IMAGES:,} images, statistics of the whole training set) and with settings that "
    f"were all published.",
    "- The bootstrap varies the samples and not the training: one seed's interval is narrow.",
    "- NFE counts evaluations of the network for an image: Heun's method takes two for each step.",
    "- An ODE and an SDE solver give different FIDs of the same weights: compare within one.",
)
HEAD = ["row", "published FID", "ours", "difference", "judged by", "verdict"]


def write_report(study: "PaperStudy", cells: Sequence[Cell]) -> list[str]:
    """Write the report and its pictures; return its lines for the terminal."""
    from sweeps.paper_pictures import draw_curves, draw_rows

    folder, findings = study.folder, find(study, cells)
    pictures = [
        draw_rows(findings, folder / "rows.png"),
        draw_curves(findings, folder / "curve.png"),
    ]
    states = {cell.name: state(cell) for cell in cells}
    lines = [f"# The paper's rows in {folder}", ""]
    lines += [SAYS, ""] if study.config.miniature else []
    lines += [
        progress_line(cells, states),
        "",
        *aligned_table([HEAD, *map(row_cells, findings)]),
        "",
    ]
    lines += [*samples_lines(findings), ""]
    for finding in findings:
        lines += details(finding)
    notes = READING[2:] if study.config.miniature else READING
    lines += [*notes, ""]
    shown = [path for path in pictures if path]
    broken = [f"- {line}" for line in failures(cells, states)]
    page = [*lines, *(f"![{path.stem}]({path.name})" for path in shown), "", *broken]
    write_text(folder / "report.md", "\n".join(page) + "\n")
    write_text(folder / "report.csv", as_csv(CSV_HEAD, csv_rows(findings)))
    beside = ", ".join(["report.csv", *(path.name for path in shown)])
    return [*lines, *broken, f"written to {folder / 'report.md'}, with {beside} beside it"]


def row_cells(f: Finding) -> list[str]:
    """Return a finding's line of the table."""
    mine = f.ours
    name = f"{f.row.name} from {Path(f.origin).name}" if f.origin else f.row.name
    spread = mine.half_width if mine else None
    value = rounded(mine.value, spread) if mine else ""
    value += f" {label(f.metric)[:-2]}" if mine and f.metric != FID else ""
    return [
        name,
        f.row.value,
        f"{value} at {mine.variant}" if mine and mine.variant else value,
        "" if f.difference is None else rounded(f.difference, spread, "+"),
        "" if mine is None else mine.basis if spread is None else f"+-{spread:.2g}: {mine.basis}",
        f.verdict,
    ]


def samples_lines(findings: Sequence[Finding]) -> list[str]:
    """Return how each row's samples were made, rows of one way in a line."""
    ways: dict[str, list[str]] = {}
    for f in findings:
        if f.scored:
            ways.setdefault(about_samples(f.scored), []).append(f.row.name)
    return [f"{way}: {', '.join(names)}" for way, names in ways.items()]


def about_samples(scored: Sequence[Scored]) -> str:
    """Return number, solver, NFE and guided channels, as the samples' recipe has them."""
    record = scored[-1].record
    recipe, solver = record["recipe"], record["recipe"]["solver"]
    parts = [
        f"{record['count']:,} samples",
        f"{solver['solver']} {solver['sampling_method']}",
        f"{solver['num_sampling_steps']} points",
    ]
    parts += [f"NFE {recipe['nfe']['mean']:g}"] if "nfe" in recipe else []
    guided = any(one.record["recipe"]["cfg_scale"] != 1 for one in scored)
    return ", ".join([*parts, f"{recipe['cfg_channels']} channels guided"] if guided else parts)


def details(f: Finding) -> list[str]:
    """Return the values of a row's variants and steps, and what was guessed."""
    lines = []
    if len({s.variant for s in f.scored}) > 1 or len({s.step for s in f.scored}) > 1:
        head = ["variant", "seed", "step", label(f.metric)]
        curve = f.row.curve if f.metric == FID else {}
        head += ["published"] if curve else []
        rows = [
            [s.variant or "-", str(s.seed), f"{s.step:,}" if s.step else "-",
             f"{s.value(f.metric):.2f}", *([f"{curve[s.step]:g}"] if curve and s.step else [])]
            for s in f.scored
        ]  # fmt: skip
        lines += [f"## {f.row.name}", "", *aligned_table([head, *rows]), ""]
    if f.scored and f.metric == FID and len(f.row.published) > 1:
        lines += [f"{f.row.name}: {other_metrics(f)}", ""]
    if f.scored and f.metric == FID and f.row.guessed:
        lines += [f"{f.row.name}, not published: {guess}" for guess in f.row.guessed] + [""]
    return lines


def other_metrics(f: Finding) -> str:
    """Return all metrics of a row that were published, of its best variant's last samples."""
    best = f.ours.variant if f.ours else ""
    chosen = next((s for s in reversed(f.scored) if s.variant == best), f.scored[-1])
    metrics = chosen.record["metrics"]
    pairs = [(label(name), metrics.get(name), v) for name, v in f.row.published.items()]
    said = [f"{name} {mine:.4g} (published {v:g})" for name, mine, v in pairs if mine is not None]
    return ", ".join(said)


CSV_HEAD = [
    "row",
    "variant",
    "seed",
    "step",
    "metric",
    "value",
    "low",
    "high",
    "published",
    "verdict",
]


def csv_rows(findings: Sequence[Finding]) -> list[list]:
    """Return a line for each metric of each scored set of samples."""
    rows: list[list] = []
    for f in findings:
        for s in f.scored:
            for metric, value in s.record["metrics"].items():
                low, high = s.record.get("intervals", {}).get(metric, ("", ""))
                published = f.row.published.get(metric, "") if f.metric == FID else ""
                if metric == FID and s.step in f.row.curve:
                    published = f.row.curve[s.step]
                own = [f.row.name, s.variant, s.seed, s.step or "", metric, value, low, high]
                rows.append([*own, published, f.verdict if metric in (FID, PIXELS) else ""])
    return rows
