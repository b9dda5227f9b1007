"""The paper's summary: a probe's mean over blocks and times, relative to the first checkpoint."""

from collections.abc import Sequence

import numpy as np

DASH = "-"


def rows_of(entry: dict, name: str | None = None) -> np.ndarray:
    """Return a measurement's numbers (times, blocks), the headline's unless a name is given."""
    return np.array(entry["values"][name or entry["headline"]], dtype=float)


def mean_of(entry: dict) -> float:
    """Return the headline's mean over times and blocks."""
    return float(rows_of(entry).mean())


def by_name(entries: Sequence[dict]) -> dict[str, list[dict]]:
    """Group measurements by the name of their checkpoint, in the order in which they come."""
    groups: dict[str, list[dict]] = {}
    for entry in entries:
        groups.setdefault(entry["name"], []).append(entry)
    return groups


def summarise(entries: Sequence[dict]) -> list[dict]:
    """Return a row for each name of one probe's measurements, the first name being the base.

    A row has the mean over blocks, times and checkpoints of that name, its change relative to the
    base (None where the base is not positive), the standard deviation over checkpoints (None for
    one), and the best block with its mean over times.
    """
    rows: list[dict] = []
    for name, group in by_name(entries).items():
        means = [mean_of(entry) for entry in group]
        over_blocks = np.mean([rows_of(entry).mean(axis=0) for entry in group], axis=0)
        best = int(over_blocks.argmax())
        mean = float(np.mean(means))
        base = rows[0]["mean"] if rows else mean
        rows.append(
            {
                "name": name,
                "mean": mean,
                "deviation": float(np.std(means, ddof=1)) if len(means) > 1 else None,
                "relative": mean / base - 1 if base > 0 else None,
                "highest_block": group[0]["blocks"][best],
                "highest": float(over_blocks[best]),
            }
        )
    return rows


def shown(value: float, percent: bool) -> str:
    return f"{100 * value:.2f} %" if percent else f"{value:.4f}"


def summary_table(probes: dict[str, list[dict]]) -> str:
    """Return the summary of all probes {probe: measurements} as a Markdown table."""
    lines = [
        "| probe | number | checkpoint | mean over blocks | relative to first | highest block |",
        "|---|---|---|---|---|---|",
    ]
    for probe, entries in probes.items():
        percent = entries[0]["percent"]
        for row in summarise(entries):
            relative = DASH if row["relative"] is None else f"{100 * row['relative']:+.1f} %"
            spread = "" if row["deviation"] is None else f" ± {shown(row['deviation'], percent)}"
            highest = f"{row['highest_block']}: {shown(row['highest'], percent)}"
            mean = shown(row["mean"], percent) + spread
            cells = probe, entries[0]["headline"], row["name"], mean, relative, highest
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
