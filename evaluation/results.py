"""Output of scores: to the terminal, to NAME.metrics.json, and as a line of results.csv."""

import csv
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from runtime.files import NO_LOCKS, check_file, check_writable, write_json, write_text
from runtime.locks import is_named
from runtime.schema import read_json

TITLES = {  # metric: how it is called, and its digits
    "fid": ("FID", 3),
    "sfid": ("sFID", 3),
    "inception_score": ("Inception Score", 2),
    "precision": ("precision", 4),
    "recall": ("recall", 4),
    "kid": ("KID", 6),
    "fd_dinov2": ("FD-DINOv2", 2),
    **{
        name: (name, 4)
        for name in (
            "pixel_frechet",
            "pixel_precision",
            "pixel_recall",
            "classifier_score",
            "label_agreement",
        )
    },
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
REQUIRED = {"samples", "images", "reference_sha256"}  # which every version had
LARGEST_RECORD = 2**26  # bytes


def metrics_path(samples: str) -> Path:
    """Return the path of NAME.metrics.json beside NAME.npz, or beside the folder NAME."""
    path = Path(samples).resolve()
    return path.with_name((path.stem if path.is_file() else path.name) + ".metrics.json")


def title_and_digits(metric: str) -> tuple[str, int]:
    if metric.startswith("fid_at_"):
        return f"FID at {int(metric.removeprefix('fid_at_')):,}", 3
    return TITLES.get(metric, (metric, 4))


def format_scores(scores) -> list[str]:
    """Return the lines about scores for the terminal."""
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
    """Write everything about an evaluation as JSON."""
    record = {key: value for key, value in asdict(scores).items() if value or key == "metrics"}
    write_json(path, record | about)


def check_outputs(out: Path, results: Path) -> None:
    """Raise `ValueError` unless both can be written without replacing other programs' files."""
    check_writable(out, f"--out {out}")
    check_writable(results, f"--results {results}")
    if os.path.realpath(out) == os.path.realpath(results):
        raise ValueError(f"--out {out}: it is --results too; give another name")
    if out.exists() and out.stat().st_size and not is_record(out):
        raise ValueError(
            f"--out {out}: what is there is no record of an evaluation and is not replaced; give "
            f"another name"
        )
    if results.exists():
        read_lines(results)
        if not os.access(results, os.W_OK):
            raise ValueError(f"--results {results}: no permission to write it")


def is_record(path: Path) -> bool:
    """Return whether `write_record` wrote this file, in this version or an older one."""
    try:
        content = read_json(path) if path.stat().st_size <= LARGEST_RECORD else None
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("metrics"), dict)


def result_line(samples: str, scores, reference: dict, pr_dtype: str, recipe: dict | None) -> dict:
    """Return a line of results.csv as {column: value}; unknown columns stay empty."""
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
    """Add a line, with a header if the file is new; processes take turns.

    A file of an older version keeps its columns, unless the line has a value for another column:
    then the file is written again with that column, empty in the older lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path) as file:
        file.seek(0)
        text = file.read()
        header = next(csv.reader(io.StringIO(text)), [])
        columns = header or COLUMNS
        missing = {name for name, value in line.items() if value not in (None, "")} - {*columns}
        if missing:
            lines = [*read_lines(path), line]
            columns = [name for name in COLUMNS if name in {*columns, *missing}]
            write_text(path, table(columns, lines))
            return
        ending = "" if text.endswith("\n") or not text else "\r\n"  # of a writer that was killed
        file.write(ending + table(columns, [line], header=not header))


@contextmanager
def locked(path: Path) -> Iterator[TextIO]:
    """Open a file for reading and appending, locked against others that open it this way."""
    while True:
        with open(path, "a+", newline="", encoding="utf-8", errors="backslashreplace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            if is_named(file, path):  # else it was replaced in the meantime
                yield file
                return


def table(columns: list[str], lines: list[dict], header: bool = True) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def read_lines(path: Path) -> list[dict]:
    """Read the lines of a results file; columns that it does not have are empty.

    Raises `ValueError` if it is not a results file.
    """
    check_file(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames or COLUMNS
            if {*columns} - {*COLUMNS} or len({*columns}) < len(columns) or REQUIRED - {*columns}:
                raise ValueError(f"its columns are {', '.join(columns)[:200]}")
            lines = [dict.fromkeys(COLUMNS, "") | line for line in reader]
            if any(None in line for line in lines):
                raise ValueError("a line has more cells than there are columns")
            return lines
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not a results file of this program ({error})") from None


def markdown_table(lines: list[dict]) -> str:
    """Return a table with a row for each set of samples and reference, from its latest line.

    Sets of one name that were made in another way, elsewhere or before, have rows of their own.
    Dates, hashes and columns that are empty in every line are left out.
    """
    latest = {
        (
            line["samples"],
            line["images"],
            line["reference_sha256"],
            bool(line["pixel_frechet"]),
            *(line[column] for column in RECIPE),
        ): line
        for line in lines
    }
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
        with suppress(ValueError):  # somebody may have written text there
            return f"{float(value):.{TITLES[column][1]}f}"
    return value.replace("|", r"\|")
