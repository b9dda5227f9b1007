"""Jobs: submitit's local jobs with real signals, and what sbatch would be given."""

import os
import signal
import stat
import time

import psutil
import pytest

from sweeps import slurm
from sweeps.cells import results, state
from sweeps.command_launch import Launch
from sweeps.pool import PoolConfig
from sweeps.slurm import ClusterConfig, Jobs, check_cluster, check_settings, make_executor, watch

LOCAL = ClusterConfig(cluster="local", hours=1.0, gpus_per_process=0, cpus_per_process=1)


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_preempted_job_is_queued_again_and_goes_on(toy, tmp_path, monkeypatch, capsys):
    """The job's first process gets the signal that SLURM sends before a preemption."""
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_LOOKS", 0.2)
    cell = toy("a", "saves", 1.5)
    jobs = Jobs(tmp_path, LOCAL)
    jobs.submit([cell], make_executor(LOCAL, PoolConfig(), tmp_path), Launch())
    until(lambda: cell.log.exists() and "at 3\n" in cell.log.read_text())
    assert jobs.alive(cell) and state(cell) == "running"
    family = psutil.Process(int(jobs.jobs["a"].job_id)).children(recursive=True)
    task = next(process for process in family if "submitit.core._submit" in process.cmdline())
    task.send_signal(signal.SIGUSR2)
    assert watch([cell], jobs, PoolConfig()) == 0
    counted = [line for line in cell.log.read_text().splitlines() if line.startswith("at ")]
    assert counted == [f"at {n}" for n in range(1, 31)]
    assert cell.log.read_text().count("$ python") == 2
    assert results(cell) == {"work": {"m": 30}} and "finished a: m 30" in capsys.readouterr().out


@pytest.fixture
def slurm_cluster(tmp_path, monkeypatch):
    """sbatch, srun and sacct that only note what they are given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": f'cp "$1" {tmp_path}/submitted.sh; echo Submitted batch job 12',
        "srun": "exit 1",
        "sacct": "printf 'JobID|State|NodeList\\n12_0|PENDING|\\n12_1|FAILED|\\n'",
    }
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return tmp_path / "submitted.sh"


def test_cells_become_one_array_of_jobs(toy, tmp_path, slurm_cluster):
    c = ClusterConfig("slurm", "gpu", "lab", hours=12, mem_gb=64, sbatch=("qos=low",))
    pool = PoolConfig(parallel=3, processes_per_cell=2)
    check_settings(pool, c)
    jobs = Jobs(tmp_path, c)
    jobs.submit([toy("a"), toy("b")], make_executor(c, pool, tmp_path), Launch(2))
    text = slurm_cluster.read_text()
    for option in (
        "array=0-1%2", "partition=gpu", "account=lab", "time=720", "gpus-per-node=2", "nodes=1",
        "cpus-per-task=16", "mem=64GB", "qos=low", "signal=USR2@300", "open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH --{option}\n" in text
    again = Jobs(tmp_path, c)  # another call finds them
    assert {name: job.job_id for name, job in again.jobs.items()} == {"a": "12_0", "b": "12_1"}
    assert again.alive(toy("a")) and not again.alive(toy("b"))


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (ClusterConfig(partition="gpu"), r"--partition gpu has no effect without --cluster slurm"),
        (ClusterConfig("slurm"), r"--cluster slurm: there is no sbatch here"),
        (ClusterConfig("local", hours=0.05), r"--hours 0.05: it must be more than the 5 minutes"),
        (ClusterConfig("local", cpus_per_process=0), r"--cpus-per-process 0: it must be at least"),
        (ClusterConfig("local", sbatch=("qos",)), r"--sbatch qos: write NAME=VALUE"),
    ],
)
def test_bad_settings_are_refused(c, message, monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=message):
        check_cluster(c)


def test_a_missing_submitit_is_named(monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="submitit is not installed; pip install submitit"):
        check_cluster(LOCAL)
