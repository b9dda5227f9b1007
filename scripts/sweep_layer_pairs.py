"""Which two layers, and how strongly? Train, sample and evaluate a grid of layer pairs.

    python scripts/sweep_layer_pairs.py run --folder results/sweep \\
      --base "train.py --model SiT-B/2 --data-path /path/to/latents --max-steps 50000" \\
      --sample "sample_ddp.py ODE --sampling-method heun2 --num-fid-samples 10000" \\
      --evaluate "python -m evaluation --ref VIRTUAL_imagenet256_labeled.npz" \\
      --pairs all --min-gap 3 --exclude-first 1 --exclude-last 0.2 --lambdas 0.1 0.3 --seeds 0 1 2
    python scripts/sweep_layer_pairs.py report results/sweep     # at any time, also half-way

Each seed has its vanilla run of the same budget, and pairs are compared with that. The same command
continues where it was, however it ended; finished cells are known by what is in them.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from sweeps.pair_grid import Grid
from sweeps.pair_study import StudyConfig
from sweeps.pool import PoolConfig
from sweeps.slurm import ClusterConfig

Flat = tyro.conf.OmitArgPrefixes


@dataclass(frozen=True)
class Run:
    """Run what is not finished yet, then report."""

    study: Annotated[StudyConfig, Flat]
    grid: Annotated[Grid, Flat] = field(default_factory=Grid)
    pool: Annotated[PoolConfig, Flat] = field(default_factory=PoolConfig)
    cluster: Annotated[ClusterConfig, Flat] = field(default_factory=ClusterConfig)
    dry_run: bool = False
    """print every command that is left and what it costs, run nothing"""


@dataclass(frozen=True)
class Report:
    """Report what is finished so far, while a sweep works or after it."""

    folder: tyro.conf.Positional[str]
    """of the sweep"""
    metric: str | None = None
    """one that its evaluation gives; the sweep's own unless named"""
    level: float = 0.95
    """of the intervals over seeds"""


def run(c: Run) -> int:
    from sweeps.commands import check_reference
    from sweeps.cost import estimate
    from sweeps.pair_study import Study, check_same_study, join_sweep
    from sweeps.slurm import check_settings, work_through

    with usage_errors():
        study = Study(c.study)
        check_reference(study.evaluation)
        points = study.points(c.grid)
        check_settings(c.pool, c.cluster)
        check_same_study(study)
        cells = [study.cell(point) for point in points]
        if c.dry_run:
            print_commands(cells, c.pool)
            print("\n".join(["", *estimate(study, cells, c.pool.parallel)]))
            return 0
        join_sweep(study, points)
    code = work_through(cells, c.pool, c.cluster, study.folder)
    report(Report(str(study.folder), c.study.metric))
    return code


def report(c: Report) -> int:
    from sweeps.commands import check_metric
    from sweeps.findings import Findings
    from sweeps.pair_study import load_study
    from sweeps.report import write_report

    with usage_errors():
        study, cells = load_study(Path(c.folder))
        metric = check_metric(c.metric or study.metric, study.evaluation)
        findings = Findings(study, cells, metric, c.level)
    path = write_report(findings)
    print("\n".join(["", *overview_lines(findings), f"written to {path} and beside it"]))
    return 0


def overview_lines(findings) -> list[str]:
    from sweeps.report import failure, progress_lines, table

    rows, lines = findings.at_end(), progress_lines(findings)
    lines += ["", *table(findings, rows), ""] if rows else []
    for cell in findings.cells:
        if findings.states[cell.name] == "failed":
            lines.append(f"failed: {cell.name}: {failure(cell)}; see {cell.log}")
    return lines


def print_commands(cells: list, c: PoolConfig) -> None:
    from sweeps.cells import to_do
    from sweeps.pool import launches

    launch = launches(c)[0]
    for cell in cells:
        left = to_do(cell)
        print(f"\n# {cell.name}{'' if left else ': finished'}")
        for command in left:
            print(launch.shown([w.replace("{cell}", str(cell.folder)) for w in command.words]))


def main() -> int:
    config = parse_command({"run": Run, "report": Report})
    return {Run: run, Report: report}[type(config)](config)


if __name__ == "__main__":
    sys.exit(main())
