"""Cells whose commands are jobs on several nodes: their settings, checked and as sbatch's options.

A job runs one command, through scripts/slurm.sbatch (sweeps/slurm_job.py).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from runtime.flags import flag, require
from sweeps.command_launch import ROOT, Launch
from sweeps.pool import PoolConfig, launches
from sweeps.slurm_job import JobLaunch

if TYPE_CHECKING:
    from sweeps.slurm import ClusterConfig


def check_nodes(c: "ClusterConfig") -> None:
    """Raise `ValueError` for settings of jobs on several nodes that do not fit."""
    if c.nodes is None:
        if c.gpus_per_node is not None:
            raise ValueError(f"--gpus-per-node {c.gpus_per_node} has no effect without --nodes")
        return
    if c.cluster != "slurm":
        raise ValueError(f"--nodes {c.nodes} has no effect without --cluster slurm")
    require(c, "nodes", c.nodes >= 1, "at least 1")
    require(c, "gpus_per_node", (c.gpus_per_node or 0) >= 0, "at least 0")
    for name in ("gpus_per_process", "cpus_per_process"):
        if getattr(c, name) != getattr(type(c), name):
            given = f"{flag(name)} {getattr(c, name)}"
            raise ValueError(
                f"{given} has no effect with --nodes: a node's GPUs and cores are shared"
            )
    if Path.cwd() != ROOT:
        raise ValueError(f"--nodes {c.nodes}: start this from {ROOT}, where jobs start")


def ways_to_launch(pool: PoolConfig, c: "ClusterConfig") -> list[Launch]:
    """Return ways to start commands, one for each of the cells that work at the same time."""
    if not c.nodes:
        return launches(pool)
    gpus = 8 if c.gpus_per_node is None else c.gpus_per_node
    hours, minutes = divmod(round(60 * c.hours), 60)
    options = [f"--nodes={c.nodes}", f"--time={hours}:{minutes:02d}:00"]
    options += [f"--gpus-per-node={gpus}"] if gpus else []
    options += [f"--partition={c.partition}"] if c.partition else []
    options += [f"--account={c.account}"] if c.account else []
    options += [f"--mem={c.mem_gb:g}G"] if c.mem_gb else []
    options += [f"--{option}" for option in c.sbatch]
    return [JobLaunch(options=tuple(options))] * pool.parallel
