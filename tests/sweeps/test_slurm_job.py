"""A cell's command as a job on several nodes: submitted once, watched again, its end told."""

import json
import os
import stat

import pytest

from runtime.outcome import VARIABLE
from sweeps import slurm, slurm_job
from sweeps.pool import PoolConfig
from sweeps.slurm import ClusterConfig, check_settings
from sweeps.slurm_job import JobLaunch, job_state
from sweeps.slurm_nodes import ways_to_launch

WORDS = ["train.py", "--lr", "1"]
OPTIONS = ["--nodes=2", "--gpus-per-node=8"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """cluster(states, sbatch) -> programs in SLURM's place; the files that they leave."""
    folder, cell = tmp_path / "bin", tmp_path / "cell"
    folder.mkdir()
    cell.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv(VARIABLE, str(cell / "outcome.json"))
    monkeypatch.setattr(slurm_job.signal, "signal", lambda *_: None)
    monkeypatch.setattr(slurm_job, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(slurm_job, "SECONDS_TO_SETTLE", 0.05)

    def program(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)

    def make(states: list[str], sbatch: str = "echo 12"):
        (tmp_path / "states").write_text("\n".join(states) + "\n")
        line = f"state=$(head -1 {tmp_path}/states); "
        line += f"[ $(wc -l <{tmp_path}/states) -gt 1 ] && sed -i 1d {tmp_path}/states; "
        line += 'case $state in GONE) echo "slurm_load_jobs error: Invalid job id" >&2; exit 1;; '
        line += "DOWN) echo Unable to contact >&2; exit 1;; esac; "
        program("scontrol", line + 'echo "JobId=12 JobState=$state"')
        program("sbatch", f'echo "$@" >>{tmp_path}/submitted; {sbatch}')
        return cell

    return make


def outcome(cell, kind: str, code: int) -> None:
    record = {"outcome": kind, "exit_code": code, "reason": "it is so", "command": "train.py"}
    (cell / "outcome.json").write_text(json.dumps(record))


def submitted(cell) -> list[str]:
    path = cell.parent / "submitted"
    return path.read_text().splitlines() if path.exists() else []


def test_a_job_is_submitted_and_its_exit_code_returned(cluster, capsys):
    cell = cluster(["PENDING", "RUNNING", "DOWN", "COMPLETED"])
    outcome(cell, "finished", 0)
    assert slurm_job.main([*OPTIONS, "--", *WORDS]) == 0
    (line,) = submitted(cell)
    assert line == (
        f"--parsable --output={cell}/slurm-%j.log --job-name=cell --nodes=2 --gpus-per-node=8 "
        f"scripts/slurm.sbatch train.py --lr 1"
    )
    assert json.loads((cell / "job.json").read_text()) == {"job": 12, "words": WORDS}
    assert f"job 12, its log is {cell}/slurm-12.log" in capsys.readouterr().out
    outcome(cell, "failed", 3)
    assert slurm_job.main([*OPTIONS, "--", *WORDS]) == 3


def test_a_job_that_lives_is_watched_again(cluster):
    cell = cluster(["RUNNING", "RUNNING", "COMPLETED"])
    (cell / "job.json").write_text(json.dumps({"job": 12, "words": WORDS}))
    assert slurm_job.main([*OPTIONS, "--", *WORDS]) == 0
    assert submitted(cell) == []
    cluster(["RUNNING", "COMPLETED"])
    assert slurm_job.main([*OPTIONS, "--", "train.py", "--lr", "2"]) == 0
    assert len(submitted(cell)) == 1  # another command is another job


def test_a_state_that_passes_is_no_end(cluster, capsys):
    """As a job that is queued again has for a moment."""
    states = ["RUNNING", "FAILED", "PENDING Reason=PartitionTimeLimit", "RUNNING", "COMPLETED"]
    cell = cluster(states)
    assert slurm_job.main([*OPTIONS, "--", *WORDS]) == 0
    assert "slurm_job: job 12 is PENDING (PartitionTimeLimit)" in capsys.readouterr().out
    assert (cell.parent / "states").read_text() == "COMPLETED\n"


def test_ends_without_a_word_and_refusals_are_told(cluster, capsys):
    cell = cluster(["CANCELLED"])
    assert slurm_job.main([*OPTIONS, "--", *WORDS]) == 1
    said = capsys.readouterr().out
    assert f"error: job 12 ended as CANCELLED; see {cell}/slurm-12.log" in said
    cluster(["GONE"], "echo 'sbatch: error: invalid partition' >&2; exit 1")
    assert slurm_job.main([*OPTIONS, "--", *WORDS]) == 1
    assert "slurm_job: error: sbatch: error: invalid partition" in capsys.readouterr().out


def test_states_are_told_apart(cluster):
    for there, state in (("RUNNING", "RUNNING"), ("GONE", "GONE"), ("DOWN", None)):
        cluster([there])
        assert job_state(12)[0] == state


def test_settings_become_options_of_sbatch(monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    monkeypatch.chdir(slurm_job.ROOT)
    c = ClusterConfig("slurm", "gpu", "lab", hours=1.5, mem_gb=64, sbatch=("qos=low",), nodes=4)
    check_settings(PoolConfig(parallel=2), c)
    first, second = ways_to_launch(PoolConfig(parallel=2), c)
    assert first == second == JobLaunch(options=(
        "--nodes=4", "--time=1:30:00", "--gpus-per-node=8", "--partition=gpu", "--account=lab",
        "--mem=64G", "--qos=low",
    ))  # fmt: skip
    words = first.argv(WORDS)
    assert words[1:3] == ["-m", "sweeps.slurm_job"] and words[-4:] == ["--", *WORDS]
    shown = first.shown(WORDS)
    assert shown.startswith("sbatch --nodes=4 ") and shown.endswith("slurm.sbatch train.py --lr 1")
    cpus = ClusterConfig("slurm", nodes=1, gpus_per_node=0)
    assert ways_to_launch(PoolConfig(), cpus)[0].options == ("--nodes=1", "--time=24:00:00")


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (ClusterConfig(nodes=2), "--nodes 2 has no effect without --cluster slurm"),
        (ClusterConfig("local", nodes=2), "--nodes 2 has no effect without --cluster slurm"),
        (
            ClusterConfig("slurm", gpus_per_node=8),
            "--gpus-per-node 8 has no effect without --nodes",
        ),
        (ClusterConfig("slurm", nodes=0), "--nodes 0: it must be at least 1"),
        (ClusterConfig("slurm", nodes=1, gpus_per_node=-1), "--gpus-per-node -1: it must be at le"),
        (ClusterConfig("slurm", nodes=1, cpus_per_process=4), "--cpus-per-process 4 has no effect"),
    ],
)
def test_bad_settings_are_refused(c, message, monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    monkeypatch.chdir(slurm_job.ROOT)
    with pytest.raises(ValueError, match=message):
        slurm.check_cluster(c)


def test_jobs_start_from_the_projects_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"--nodes 1: start this from .*, where jobs start"):
        slurm.check_cluster(ClusterConfig("slurm", nodes=1))
