"""How much guidance, and when? Sample and evaluate a grid of guidance scales and intervals.

    python scripts/guidance_sweep.py run --folder results/guidance --ckpt 0400000.pt \\
      --sample "sample_ddp.py --preset paper-sde-em250 --num-fid-samples 10000" \\
      --evaluate "python -m evaluation --ref VIRTUAL_imagenet256_labeled.npz" \\
      --scales 1 1.25 1.5 2 3 --intervals 0:1 0.3:1
    python scripts/guidance_sweep.py report results/guidance     # at any time, also half-way

Ends with a table (Markdown and CSV) and a picture of FID against Inception Score. The same command
continues where it was, however it ended; finished cells are known by what is in them.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.command import parse_command, usage_errors
from sweeps.guidance_grid import GuidanceGrid
from sweeps.guidance_study import GuidanceConfig
from sweeps.pool import PoolConfig
from sweeps.slurm import ClusterConfig

Flat = tyro.conf.OmitArgPrefixes


@dataclass(frozen=True)
class Run:
    """Run what is not finished yet, then report."""

    study: Annotated[GuidanceConfig, Flat]
    grid: Annotated[GuidanceGrid, Flat] = field(default_factory=GuidanceGrid)
    pool: Annotated[PoolConfig, Flat] = field(default_factory=PoolConfig)
    cluster: Annotated[ClusterConfig, Flat] = field(default_factory=ClusterConfig)
    dry_run: bool = False
    """print every command that is left, run nothing"""


@dataclass(frozen=True)
class Report:
    """Report what is finished so far, while a sweep works or after it."""

    folder: tyro.conf.Positional[str]
    """of the sweep"""
    metrics: tuple[str, str] | None = None
    """the picture's vertical and horizontal axis; the sweep's own unless given"""


def run(c: Run) -> int:
    from sweeps.commands import check_reference
    from sweeps.guidance_grid import guidance_points
    from sweeps.guidance_study import GuidanceStudy, check_guidable, check_same_sweep, join_sweep
    from sweeps.slurm import check_settings, work_through

    with usage_errors():
        points = guidance_points(c.grid)
        study = GuidanceStudy(c.study)
        check_reference(study.evaluation)
        check_guidable(study, points)
        check_settings(c.pool, c.cluster)
        check_same_sweep(study)
        cells = [study.cell(point) for point in points]
        if c.dry_run:
            from scripts.sweep_layer_pairs import print_commands

            print_commands(cells, c.pool)
            return 0
        join_sweep(study, points)
    code = work_through(cells, c.pool, c.cluster, study.folder)
    report(Report(c.study.folder, c.study.metrics))
    return code


def report(c: Report) -> int:
    from sweeps.guidance_report import GuidanceFindings, markdown, write_guidance_report
    from sweeps.guidance_study import load_sweep

    with usage_errors():
        findings = GuidanceFindings(*load_sweep(Path(c.folder), c.metrics))
    path = write_guidance_report(findings)
    print("\n".join(["", *markdown(findings)]))
    print(f"written to {path}, with guidance.csv and guidance.png beside it")
    return 0


def main() -> int:
    config = parse_command({"run": Run, "report": Report})
    return {Run: run, Report: report}[type(config)](config)


if __name__ == "__main__":
    sys.exit(main())
