"""Train, sample and evaluate a grid of layer pairs: which two layers, and how strongly?

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
from runtime.command import parse_command
from sweeps.pair_grid import PairGrid
from sweeps.pair_study import PairStudyConfig
from sweeps.pool import PoolConfig
from sweeps.slurm import ClusterConfig

Flat = tyro.conf.OmitArgPrefixes


@dataclass(frozen=True)
class Run:
    """Run the unfinished cells, then report."""

    study: Annotated[PairStudyConfig, Flat]
    grid: Annotated[PairGrid, Flat] = field(default_factory=PairGrid)
    pool: Annotated[PoolConfig, Flat] = field(default_factory=PoolConfig)
    cluster: Annotated[ClusterConfig, Flat] = field(default_factory=ClusterConfig)
    dry_run: bool = False
    """print every command that is left and what it costs, run nothing"""


@dataclass(frozen=True)
class Report:
    """Report the finished cells, while a sweep works or after it."""

    folder: tyro.conf.Positional[str]
    """folder of the sweep"""
    metric: str | None = None
    """metric that its evaluation gives; the sweep's own unless named"""
    level: float = 0.95
    """confidence level of the intervals over seeds"""


def main() -> int:
    c = parse_command({"run": Run, "report": Report})
    from sweeps.pair_study import PairStudy
    from sweeps.study import report_sweep, run_sweep

    if isinstance(c, Report):
        return report_sweep(PairStudy, Path(c.folder), metric=c.metric, level=c.level)
    how = {"pool": c.pool, "cluster": c.cluster, "dry_run": c.dry_run}
    return run_sweep(PairStudy, c.study, c.grid, **how)


if __name__ == "__main__":
    sys.exit(main())
