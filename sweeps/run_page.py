"""A Markdown page that compares training runs: the picture, their results, what differs."""

from collections.abc import Sequence
from pathlib import Path

from sweeps.run_records import RunRecord, differing_settings, same_noise, smoothed, weight_for

NUMBERS = {
    "velocity_loss": "velocity loss",
    r"similarity_\d+_\d+": "similarity",
    "grad_norm": "gradient norm",
    "eval_fid": "FID",
    "eval_pixel_frechet": "pixel Fréchet (not FID)",
    "val_loss": "held-out loss",
    "images_per_second": "images/s",
}


def comparison_page(
    runs: Sequence[RunRecord], picture: str, grids: dict[str, Path], smoothing: float | None
) -> str:
    """Return the page as Markdown; `picture` is the name of the file beside it."""
    runs = list(runs)
    lines = ["# " + " | ".join(run.name for run in runs).replace("|", "vs"), ""]
    lines += [f"![Curves and samples of the runs]({picture})", ""]
    weight = "at most 0.9, less for short logs" if smoothing is None else f"{smoothing:g}"
    lines += [f"Thick lines are moving averages (weight of the past {weight}), thin ones raw;"]
    lines += ["the table has where the thick ones end."]
    lines += ["", grid_note(runs, grids), "", "## At the end", "", *results(runs, smoothing), ""]
    lines += ["## What differs in their settings", ""]
    differing = differing_settings(runs)
    if not differing:
        return "\n".join([*lines, "Nothing: these are the same settings.", ""])
    lines += table(["", *(run.name for run in runs)], [
        [f"`--{name.replace('_', '-')}`" if name != "pairs" else "pairs",
         *("-" if value is None else str(value) for value in values)]
        for name, values in differing.items()
    ])  # fmt: skip
    return "\n".join([*lines, ""])


def grid_note(runs: list[RunRecord], grids: dict[str, Path]) -> str:
    """Say what the sample grids show, in a sentence."""
    if not grids:
        return "No step has a sample grid of every run."
    if same_noise(runs):
        return "The sample grids are of the same noise, labels and guidance."
    return (
        "The sample grids are **not** of the same noise or guidance: seed, size, classes, codec or "
        "--cfg-scale of the runs differ."
    )


def results(runs: list[RunRecord], smoothing: float | None) -> list[str]:
    """Return the last value of each number, averaged as in the picture; of FID the best one too."""
    patterns = [p for p in NUMBERS if any(run.keys(p) for run in runs)]
    head = ["", "step", *(NUMBERS[p] for p in patterns)]
    rows = []
    for run in runs:
        cells = [f"{max(row['step'] for row in run.rows):,}"]
        for pattern in patterns:
            texts = []
            for key in run.keys(pattern):
                steps, values = run.series(key)
                if not values:
                    continue
                if key.startswith(("eval_", "val_")):
                    best = min(range(len(values)), key=values.__getitem__)
                    texts.append(f"{values[-1]:.4g} (best {values[best]:.4g} at {steps[best]:,})")
                else:
                    weight = weight_for(len(values), smoothing)
                    texts.append(f"{smoothed(values, weight)[-1]:.4g}")
            cells.append(", ".join(texts) or "-")
        rows.append([run.name, *cells])
    return table(head, rows)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
