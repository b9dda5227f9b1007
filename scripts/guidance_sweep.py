"""Sample and evaluate a grid of guidance scales and intervals: how much guidance, and when?

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
from runtime.command import parse_command
from sweeps.guidance_grid import GuidanceGrid
from sweeps.guidance_study import GuidanceConfig
from sweeps.pool import PoolConfig
from sweeps.slurm import ClusterConfig

Flat = tyro.conf.OmitArgPrefixes


@dataclass(frozen=True)
class Run:
    """Run the unfinished cells, then report."""

    study: Annotated[GuidanceConfig, Flat]
    grid: Annotated[GuidanceGrid, Flat] = field(default_factory=GuidanceGrid)
    pool: Annotated[PoolConfig, Flat] = field(default_factory=PoolConfig)
    cluster: Annotated[ClusterConfig, Flat] = field(default_factory=ClusterConfig)
    dry_run: bool = False
    """print every command that is left, run nothing"""


@dataclass(frozen=True)
class Report:
    """Report the finished cells, while a sweep works or after it."""

    folder: tyro.conf.Positional[str]
    """folder of the sweep"""
    metrics: tuple[str, str] | None = None
    """the picture's vertical and horizontal axis; the sweep's own unless given"""


def main() -> int:
    c = parse_command({"run": Run, "report": Report})
    from sweeps.guidance_study import GuidanceStudy
    from sweeps.study import report_sweep, run_sweep

    if isinstance(c, Report):
        return report_sweep(GuidanceStudy, Path(c.folder), metrics=c.metrics)
    how = {"pool": c.pool, "cluster": c.cluster, "dry_run": c.dry_run}
    return run_sweep(GuidanceStudy, c.study, c.grid, **how)


if __name__ == "__main__":
    sys.exit(main())
