"""Where scores go: the terminal, NAME.metrics.json, and one line of results.csv."""

import csv
import fcntl
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

TITLES = {  # metric: how it is called, and its digits
    "fid": ("FID", 3),
    "sfid": ("sFID", 3),
    "inception_score": ("Inception Score", 2),
    "precision": ("precision", 4),
    "recall": ("recall", 4),
    "kid": ("KID", 6),
    "fd_dinov2": ("FD-DINOv2", 2),
}
RECIPE = {  # column: where a recipe of sample_ddp.py has it
    "model": ("model",),
    "step": ("step",),
    "solver": ("solver", "sampling_method"),
    "steps": ("solver", "num_sampling_steps"),
    "nfe": ("nfe", "mean"),
    "cfg_scale": ("cfg_scale",),
    "seed": ("seed",),
    "weights_sha256": ("weights_sha256",),
}
HASHES = ("weights_sha256", "reference_sha256")
ORIGIN = ("reference", "reference_sha256", "pr_dtype", "date")
COLUMNS = ["samples", "images", *TITLES, *RECIPE, *ORIGIN]


def metrics_path(samples: str) -> Path:
    """NAME.metrics.json beside NAME.npz, or beside the folder NAME."""
    path = Path(samples).resolve()
    return path.with_name((path.stem if path.is_file() else path.name) + ".metrics.json")


def title_and_digits(metric: str) -> tuple[str, int]:
    if metric.startswith("fid_at_"):
        return f"FID at {int(metric.removeprefix('fid_at_')):,}", 3
    return TITLES.get(metric, (metric, 4))


def format_scores(scores) -> list[str]:
    """Lines for the terminal."""
    lines = []
    for metric, value in scores.metrics.items():
        title, digits = title_and_digits(metric)
        line = f"  {title:18s}{value:12.{digits}f}"
        if metric in scores.intervals:
            low, high = scores.intervals[metric]
            line += f"   95%: {low:.{digits}f} to {high:.{digits}f}"
        lines.append(line)
    if scores.per_class:
        rows = scores.per_class.values()
        for name in ("precision", "recall"):
            mean = sum(row[name] for row in rows) / len(rows)
            lines.append(f"  {name + ' in a class':18s}{mean:12.4f}   mean of {len(rows)} classes")
    return lines


def write_record(path: Path, scores, **about) -> None:
    """Everything of an evaluation as JSON."""
    record = {key: value for key, value in asdict(scores).items() if value or key == "metrics"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | about, indent=2) + "\n")


def result_line(samples: str, scores, reference: dict, pr_dtype: str, recipe: dict | None) -> dict:
    """What one line of results.csv says; unknown columns stay empty."""
    line = {"samples": samples, "images": scores.count} | {
        metric: f"{value:.6g}" for metric, value in scores.metrics.items() if metric in TITLES
    }
    for column, keys in RECIPE.items():
        value = recipe
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        line[column] = value
    return line | {
        "reference": Path(reference["path"]).name,
        "reference_sha256": reference["sha256"],
        "pr_dtype": pr_dtype,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def append_line(path: Path, line: dict) -> None:
    """Add a line, under a header if the file is new; processes that do so at once take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, COLUMNS)
        if os.fstat(file.fileno()).st_size == 0:
            writer.writeheader()
        writer.writerow(line)


def read_lines(path: Path) -> list[dict]:
    """The lines of a results file; `ValueError` if it is not one."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is not None and reader.fieldnames != COLUMNS:
                raise ValueError(f"its columns are {', '.join(reader.fieldnames)}")
            return list(reader)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not a results file of this program ({error})") from None


def markdown_table(lines: list[dict]) -> str:
    """One row for each set of samples and reference, the latest if there are several.

    Columns that are empty in every line, dates and hashes are left out.
    """
    latest = {(line["samples"], line["images"], line["reference_sha256"]): line for line in lines}
    rows = list(latest.values())
    columns = [
        column
        for column in COLUMNS
        if column not in (*HASHES, "date", "pr_dtype") and any(row[column] for row in rows)
    ]
    cells = [[TITLES.get(column, (column,))[0] for column in columns]]
    cells += [[format_cell(column, row[column]) for column in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def format_cell(column: str, value: str) -> str:
    if column in TITLES and value:
        return f"{float(value):.{TITLES[column][1]}f}"
    return value.replace("|", r"\|")
