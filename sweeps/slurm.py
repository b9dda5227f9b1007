"""Cells as jobs of SLURM, through submitit: one array of jobs, a cell each.

A job that is preempted or out of time gets SIGUSR2: its command saves and ends (train.py: exit code
75), and the job is queued again with the same cell, where the command continues. A job that SLURM
queues again by itself continues as well. The program that submitted the jobs only watches them and
may end before them; started again, it reads FOLDER/slurm/jobs.json and watches the same jobs.
"""

import importlib.util
import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from runtime.command import EXIT_FAILED
from runtime.files import write_json
from runtime.flags import flag, require
from runtime.stopping import EXIT_PREEMPTED
from sweeps.cells import Cell, state
from sweeps.command_launch import ROOT, Launch
from sweeps.overview import Overview
from sweeps.pool import POLL_SECONDS, PoolConfig, check_pool, run_cells, stop_signals
from sweeps.process import CellRun
from sweeps.slurm_nodes import check_nodes, ways_to_launch

ANNOUNCED_SECONDS = 300  # before its end a job is told; so long saving may take
REQUEUES = 1000  # after time-outs; nothing is lost by one
SECONDS_BETWEEN_LOOKS = 10.0
SECONDS_FOR_LOCK = 120.0  # for an earlier job's last processes to release a cell


@dataclass(frozen=True)
class ClusterConfig:
    """The place where cells run, and what a job asks for. A cell's processes are on one machine,
    or each of its commands is a job on several nodes."""

    cluster: Literal["here", "slurm", "local"] = "here"
    """here: in this process; slurm: as an array of jobs, --parallel at a time; local: as submitit's
    local jobs, to try it without SLURM"""
    partition: str | None = None
    """SLURM's partition"""
    account: str | None = None
    """SLURM's account"""
    hours: float = 24.0
    """time limit of a job; what is not finished then is queued again and continues"""
    gpus_per_process: int = 1
    """GPUs for each process; 0 on machines without GPUs"""
    cpus_per_process: int = 8
    """cores for each process"""
    mem_gb: float | None = None
    """memory of a job"""
    sbatch: tuple[str, ...] = ()
    """more options of sbatch as NAME=VALUE: qos=low constraint=a100"""
    nodes: int | None = None
    """with --cluster slurm: each command is a job of scripts/slurm.sbatch on this many nodes, one
    after another; without it a cell is a job, on one node"""
    gpus_per_node: int | None = None
    """with --nodes: GPUs of each, 0 for nodes without; 8 unless given"""


def check_cluster(c: ClusterConfig) -> None:
    """Raise `ValueError` for settings that contradict each other and for missing programs."""
    if c.cluster == "here":
        for field in fields(c):
            if getattr(c, field.name) != field.default:
                given = f"{flag(field.name)} {getattr(c, field.name)}"
                raise ValueError(f"{given} has no effect without --cluster slurm")
        return
    check_nodes(c)
    if not c.nodes and importlib.util.find_spec("submitit") is None:
        raise ValueError(f"--cluster {c.cluster}: submitit is not installed; pip install submitit")
    if c.cluster == "slurm" and not shutil.which("sbatch"):
        raise ValueError("--cluster slurm: there is no sbatch here; run this on a login node")
    require(c, "hours", c.hours > ANNOUNCED_SECONDS / 3600, "more than the 5 minutes for saving")
    require(c, "gpus_per_process", c.gpus_per_process >= 0, "at least 0")
    require(c, "cpus_per_process", c.cpus_per_process >= 1, "at least 1")
    for option in c.sbatch:
        if not option.partition("=")[2]:
            raise ValueError(f"--sbatch {option}: write NAME=VALUE, as in qos=low")


def check_settings(pool: PoolConfig, c: ClusterConfig) -> None:
    """Raise `ValueError` for settings that this machine or the cluster cannot satisfy."""
    check_cluster(c)
    check_pool(pool, here=c.cluster == "here")


def work_through(cells: Sequence[Cell], pool: PoolConfig, c: ClusterConfig, folder: Path) -> int:
    """Run the cells of the sweep in `folder`, here or on the cluster that `c` names.

    Returns 0 when all are finished, 1 when some are not and nothing more happens, 75 when it was
    stopped: the same call continues.
    """
    if c.cluster == "here" or c.nodes:
        return run_cells(cells, pool, ways_to_launch(pool, c))
    return submit_cells(cells, pool, c, folder)


class CellJob:
    """The work of a job; submitit calls `checkpoint` when the job must end before its cell has."""

    def __init__(self, launch: Launch):
        self.launch = launch
        self.run: CellRun | None = None

    def __call__(self, cell: Cell) -> str:
        """Run the cell to its end; return the outcome."""
        deadline = time.monotonic() + SECONDS_FOR_LOCK
        while True:
            with unannounced():
                self.run = CellRun(cell, self.launch)
            if self.run.outcome != "busy" or time.monotonic() > deadline:
                break
            time.sleep(1)
        while True:
            with unannounced():
                if outcome := self.run.poll():
                    return outcome
            time.sleep(POLL_SECONDS)

    def checkpoint(self, cell: Cell):
        """Let the command save and end; return the job that continues it."""
        from submitit.helpers import DelayedSubmission

        if self.run:
            self.run.stop()
            while not self.run.poll():
                time.sleep(POLL_SECONDS)
        return DelayedSubmission(CellJob(self.launch), cell)


@contextmanager
def unannounced():
    """Block SIGUSR2 for a while: its handler uses the state that is being changed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def make_executor(c: ClusterConfig, pool: PoolConfig, folder: Path):
    import submitit

    limits = {"slurm_max_num_timeout": REQUEUES} if c.cluster == "slurm" else {}
    executor = submitit.AutoExecutor(folder / "slurm" / "%j", cluster=c.cluster, **limits)
    size = pool.processes_per_cell
    executor.update_parameters(
        name=folder.name,
        timeout_min=int(c.hours * 60),
        nodes=1,
        tasks_per_node=1,
        cpus_per_task=c.cpus_per_process * size,
        gpus_per_node=c.gpus_per_process * size,
        mem_gb=c.mem_gb,
        slurm_partition=c.partition,
        slurm_account=c.account,
        slurm_array_parallelism=pool.parallel,
        slurm_signal_delay_s=ANNOUNCED_SECONDS,
        slurm_setup=[f"export PYTHONPATH={ROOT}:$PYTHONPATH"],
        slurm_additional_parameters=dict(option.split("=", 1) for option in c.sbatch) or None,
    )
    return executor


class Jobs:
    """The jobs of a sweep's cells, stored in FOLDER/slurm/jobs.json."""

    def __init__(self, folder: Path, c: ClusterConfig):
        self.path, self.cluster = folder / "slurm" / "jobs.json", c.cluster
        self.jobs = {}
        if self.path.exists():
            remembered = json.loads(self.path.read_text())
            if remembered["cluster"] == c.cluster:
                self.jobs = {n: self._find(number) for n, number in remembered["jobs"].items()}

    def _find(self, number: str):
        import submitit

        kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[self.cluster]
        return kind(folder=self.path.parent / "%j", job_id=number, tasks=[0])

    def alive(self, cell: Cell) -> bool:
        """Return whether a job of this cell waits or runs, by SLURM's accounting."""
        return cell.name in self.jobs and not self.jobs[cell.name].done()

    def submit(self, cells: Sequence[Cell], executor, launch: Launch) -> None:
        """Submit the cells as one array of jobs."""
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))  # for pickles
        new = executor.map_array(CellJob(launch), list(cells))
        self.jobs |= {cell.name: job for cell, job in zip(cells, new, strict=True)}
        numbers = {name: job.job_id for name, job in self.jobs.items()}
        write_json(self.path, {"cluster": self.cluster, "jobs": numbers}, indent=1)


def submit_cells(cells: Sequence[Cell], pool: PoolConfig, c: ClusterConfig, folder: Path) -> int:
    """Submit cells that are not finished and have no job, then watch until none is left."""
    executor = make_executor(c, pool, folder)
    jobs, launch = Jobs(folder, c), Launch(pool.processes_per_cell, threads=c.cpus_per_process)
    wanted = ("waiting", "failed") if pool.retry_failed else ("waiting",)
    new = [cell for cell in cells if state(cell) in wanted and not jobs.alive(cell)]
    if new:
        jobs.submit(new, executor, launch)
    print(f"{len(new)} jobs submitted; logs of jobs in {folder / 'slurm'}", flush=True)
    return watch(cells, jobs, pool)


def watch(cells: Sequence[Cell], jobs: Jobs, pool: PoolConfig) -> int:
    """Show the jobs' progress until none is left, or until Ctrl-C; return the exit code."""
    overview, stopped = Overview(cells, pool.parallel), []
    with stop_signals(lambda: stopped.append(True)):
        while not stopped:
            alive = [cell for cell in cells if jobs.alive(cell)]
            states = {cell.name: state(cell) for cell in cells}  # after asking for jobs
            for cell in cells:
                queued = states[cell.name] == "failed" and cell in alive  # to be tried again
                overview.set(cell, "waiting" if queued else states[cell.name])
            overview.refresh()
            if not alive and "running" not in states.values():
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)
    overview.close()
    if stopped:
        print("watching ended; the jobs go on. The same command watches again, scancel stops them")
        return EXIT_PREEMPTED
    for name in (name for name, state_now in states.items() if state_now == "waiting"):
        print(f"{name}: its job ended before it; the same command submits it again")
    return EXIT_FAILED if set(states.values()) - {"finished"} else 0
