"""Compare training runs: curves, sample grids and settings, in a picture and a page that shows it.

    python scripts/compare.py results/A results/B ...
    python scripts/compare.py results/A results/B --out results/a-or-b --smoothing 0.95

writes compare.png and compare.md into the folder --out.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from runtime.files import check_folder_writable, replacing, write_text
from runtime.flags import Range, check_ranges


@dataclass(frozen=True)
class CompareConfig:
    """Compare training runs: curves, sample grids of the same noise, and what differs."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """folders of runs, as results/NAME"""
    out: str = "results/compare"
    """folder for compare.png and compare.md"""
    smoothing: float | None = None
    """weight of the past in the moving averages, at each logged line; 0 for none; unless given 0.9,
    and less where a log has under 200 lines"""


def main(config: CompareConfig) -> None:
    with usage_errors():
        check_ranges(config, {"smoothing": Range(0, 1, below=True)})
        if not config.runs:
            raise ValueError("give the folder of a run, or of several, as results/NAME")
        folder = Path(config.out)
        check_folder_writable(folder, f"--out {config.out}")
        from sweeps.run_page import comparison_page
        from sweeps.run_pictures import draw_runs
        from sweeps.run_records import common_grids, read_runs

        runs = read_runs(list(config.runs))
        grids = common_grids(runs)
        with replacing(folder / "compare.png") as temporary, open(temporary, "r+b") as file:
            draw_runs(runs, grids, file, config.smoothing)
        page = comparison_page(runs, "compare.png", grids, config.smoothing)
        write_text(folder / "compare.md", page)
    print(f"{folder / 'compare.md'} and compare.png, of {len(runs)} runs")


if __name__ == "__main__":
    main(parse_command(CompareConfig))
