"""Reproduce the paper's rows, each of which is a file in recipes/ and one command here.

    python scripts/reproduce.py list                        # every row: published value, cost, ours
    python scripts/reproduce.py show b2-layersync           # its settings, what was not published
    python scripts/reproduce.py run b2-layersync --data-path /path/to/latents \\
        --ref VIRTUAL_imagenet256_labeled.npz --processes 8 [--dry-run]
    python scripts/reproduce.py run b2-layersync --miniature    # all stages, about a minute
    python scripts/reproduce.py report                      # ours against the paper's, at any time

`run` trains, samples and evaluates; the same command continues where it was, however it ended. See
docs/reproduce.md.
"""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from sweeps.paper_settings import Added
from sweeps.pool import PoolConfig
from sweeps.slurm import ClusterConfig

Flat = tyro.conf.OmitArgPrefixes
TAKE_FLAGS = ("--train", "--sample", "--evaluate")
FOLDER, MINIATURE_FOLDER = "results/reproduce", "results/miniature"


@dataclass(frozen=True)
class List:
    """List every row with its published value, its cost and ours."""

    folder: str = FOLDER
    """where ours were made"""
    markdown: bool = False
    """as the table of docs/reproduce.md"""


@dataclass(frozen=True)
class Show:
    """Show rows in full: what was published, what was not, settings, cost, commands."""

    rows: tyro.conf.Positional[tuple[str, ...]]
    """names of rows, or patterns such as "b2-*" """


@dataclass(frozen=True)
class Run:
    """Train, sample and evaluate rows, then report."""

    rows: tyro.conf.Positional[tuple[str, ...]]
    """names of rows, or patterns such as "b2-*" """
    data_path: str | None = None
    """ImageNet, or the latents that scripts/cache_latents.py made of it"""
    repa_features: str | None = None
    """cached features of REPA's encoder, for the rows that need them, beside cached latents"""
    ref: str | None = None
    """the reference: ADM's VIRTUAL_imagenet256_labeled.npz"""
    from_checkpoint: str | None = None
    """start at sampling, with these weights"""
    seeds: tuple[int, ...] = (0,)
    """seeds of training and sampling; two or more give the spread that a row is judged by"""
    folder: str | None = None
    """everything is written in here; results/reproduce, or results/miniature"""
    miniature: bool = False
    """all stages in about a minute a row, on the embedded digits: shows that a recipe runs"""
    added: Annotated[Added, Flat] = field(default_factory=Added)
    keep_samples: bool = False
    """keep the samples' .npz, 9.8 GB, which are otherwise removed when they are evaluated"""
    processes: int = 1
    """processes of each command on this machine, each with a GPU of its own if there are any"""
    parallel: int = 1
    """cells (a row, variant and seed) at work at the same time"""
    retry_failed: bool = False
    """run cells again that failed before; without it they are only reported"""
    cluster: Annotated[ClusterConfig, Flat] = field(default_factory=ClusterConfig)
    dry_run: bool = False
    """print every command that is left and what it costs, run nothing"""


@dataclass(frozen=True)
class Report:
    """Report ours against the paper's, while rows run or after it."""

    folder: tyro.conf.Positional[str] = FOLDER
    """where they were made; results/miniature for miniatures"""


def list_rows(c: List) -> int:
    from sweeps.paper_findings import find
    from sweeps.paper_pages import list_lines, markdown_lines
    from sweeps.paper_rows import all_rows
    from sweeps.paper_study import PaperStudy
    from sweeps.sweep_folder import load_sweep

    findings = []
    with usage_errors():
        if (Path(c.folder) / "sweep.json").exists():
            study, cells = load_sweep(PaperStudy, Path(c.folder))
            assert isinstance(study, PaperStudy)
            findings = find(study, cells)
        make = markdown_lines if c.markdown else list_lines
        lines = make(list(all_rows().values()), findings)
    print("\n".join(lines))
    return 0


def show(c: Show) -> int:
    from sweeps.paper_pages import show_lines
    from sweeps.paper_rows import find_rows

    with usage_errors():
        if not c.rows:
            raise ValueError("show: name a row; scripts/reproduce.py list shows them")
        pages = ["\n".join(show_lines(row)) for row in find_rows(c.rows)]
    print("\n\n\n".join(pages))
    return 0


def run(c: Run) -> int:
    from sweeps.grid_values import check_values
    from sweeps.paper_miniature import SAYS
    from sweeps.paper_points import PaperConfig, PaperGrid
    from sweeps.paper_rows import find_rows
    from sweeps.paper_study import PaperStudy
    from sweeps.study import run_sweep

    with usage_errors():
        if not c.rows:
            raise ValueError("run: name a row; scripts/reproduce.py list shows them")
        find_rows(c.rows)
        check_values("--seeds", c.seeds, lambda seed: 0 <= seed < 2**63, "at least 0, below 2^63")
    if c.miniature:
        print(SAYS, flush=True)
    config = PaperConfig(
        ref=c.ref,
        folder=c.folder or (MINIATURE_FOLDER if c.miniature else FOLDER),
        miniature=c.miniature,
        added=c.added,
        repa_features=c.repa_features,
        keep_samples=c.keep_samples,
    )
    grid = PaperGrid(c.rows, c.seeds, c.data_path, c.from_checkpoint)
    pool = PoolConfig(c.parallel, c.processes, c.retry_failed)
    return run_sweep(
        PaperStudy, config, grid, pool=pool, cluster=place(c.cluster), dry_run=c.dry_run
    )


def place(c: ClusterConfig) -> ClusterConfig:
    """Return where cells run; on SLURM commands are jobs, because rows share their trainings."""
    if c.cluster == "slurm" and c.nodes is None:
        return dataclasses.replace(c, nodes=1)
    return c


def report(c: Report) -> int:
    from sweeps.paper_study import PaperStudy
    from sweeps.study import report_sweep

    return report_sweep(PaperStudy, Path(c.folder))


def joined(args: list[str]) -> list[str]:
    """Return the command line with --train "--lr 1" as --train="--lr 1", which is one flag."""
    words: list[str] = []
    for word in args:
        if words and words[-1] in TAKE_FLAGS and word.startswith("-"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def main() -> int:
    parts: dict[str, Callable] = {"list": List, "show": Show, "run": Run, "report": Report}
    c = parse_command(parts, prepare=joined)
    commands: dict[type, Callable] = {List: list_rows, Show: show, Run: run, Report: report}
    return commands[type(c)](c)


if __name__ == "__main__":
    sys.exit(main())
