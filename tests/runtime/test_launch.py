"""A process's place in its launch, as the variables of launchers tell it."""

import os

import pytest

from runtime.launch import (
    UnknownHost,
    check_host,
    check_launch,
    describe_task,
    first_host,
    is_first_process,
    is_slurm_task,
    join_launch,
    restarted,
    tasks_per_node,
)

STEP = {  # as srun sets them for the sixth of eight tasks, on the second of two nodes
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "127.0.0.[1-2]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[007,009-012]", "gpu007"),
        ("rack[1-2]n[07-09,12]", "rack1n07"),
        ("a-b,c[1-3]", "a-b"),
        ("a[3,5],b", "a3"),
        ("n[1-3].cluster.org", "n1.cluster.org"),
        ("", "127.0.0.1"),
    ],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(("counts", "each"), [("8(x2),4", [8, 8, 4]), ("1", [1]), ("2,1", [2, 1])])
def test_tasks_per_node(counts, each):
    assert tasks_per_node(counts) == each


def test_a_task_of_slurm_is_described_as_by_torchrun():
    described = describe_task(STEP)
    port = int(described.pop("MASTER_PORT"))
    assert described == dict(
        RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", LOCAL_WORLD_SIZE="4", OMP_NUM_THREADS="1",
        MASTER_ADDR="127.0.0.1",
    )  # fmt: skip
    others = STEP | {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}
    assert int(describe_task(others)["MASTER_PORT"]) == port
    ports = {
        describe_task(STEP | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})["MASTER_PORT"]
        for job in range(4711, 4731)
        for step in range(3)
    }
    assert len(ports) == 60 and all(1024 < int(port) < 32768 for port in ports)


def test_a_task_that_sees_only_its_own_gpu_takes_that():
    assert describe_task(STEP | {"CUDA_VISIBLE_DEVICES": "3"})["LOCAL_RANK"] == "0"
    assert describe_task(STEP | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})["LOCAL_RANK"] == "1"


def test_only_several_tasks_of_a_step_are_a_launch():
    assert is_slurm_task(STEP)
    script = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
    assert not is_slurm_task(script)  # of the batch job
    assert not is_slurm_task(STEP | {"SLURM_STEP_NUM_TASKS": "1"})
    assert not is_slurm_task(STEP | {"SLURM_PTY_PORT": "40000"})  # a shell of the user's


def test_joining_keeps_what_is_set(monkeypatch):
    names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
    for name in names:
        monkeypatch.setenv(name, "")  # so that what joining sets goes afterwards
        monkeypatch.delenv(name)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29500")
    join_launch()
    assert os.environ["MASTER_PORT"] == "29500" and os.environ["RANK"] == "5"
    monkeypatch.setenv("RANK", "1")  # torchrun within a step
    monkeypatch.setenv("WORLD_SIZE", "2")
    join_launch()
    assert os.environ["RANK"] == "1" and os.environ["WORLD_SIZE"] == "2"


WHOLE = dict(RANK="1", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"WORLD_SIZE": "8"},
            "WORLD_SIZE=8 without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT",
        ),
        (WHOLE | {"RANK": ""}, "RANK=, WORLD_SIZE=2, .* without RANK,"),
        ({"RANK": "1"}, "has RANK=1 without WORLD_SIZE, .*: unset RANK"),
        ({"LOCAL_RANK": "3"}, "has LOCAL_RANK=3 without RANK"),
        (WHOLE | {"WORLD_SIZE": "two"}, "WORLD_SIZE=two, .*, which is no"),
        (WHOLE | {"MASTER_PORT": "p"}, "MASTER_PORT=p, which is no whole launch"),
        (WHOLE | {"RANK": "2"}, "RANK=2, WORLD_SIZE=2.*: unset RANK WORLD_SIZE LOCAL"),
    ],
)
def test_a_part_of_a_launch_is_refused(monkeypatch, variables, says):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=says):
        check_launch()


@pytest.mark.parametrize(
    "variables",
    [
        WHOLE,
        {},
        {"MASTER_ADDR": "here", "MASTER_PORT": "29500"},
        {"WORLD_SIZE": "1"},
        WHOLE | {"RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_a_whole_launch_and_none_are_taken(monkeypatch, variables):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_launch()
    assert is_first_process() == (variables is not WHOLE)


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_launchers_count_their_restarts(monkeypatch, name):
    for each in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(each, raising=False)
    assert not restarted()
    monkeypatch.setenv(name, "0")
    assert not restarted()
    monkeypatch.setenv(name, "2")
    assert restarted()


def test_a_host_that_nobody_knows_is_refused_after_a_while(monkeypatch):
    monkeypatch.setattr("runtime.launch.SECONDS_FOR_HOST", 0.5)
    asked = []
    monkeypatch.setattr("runtime.launch.is_known", lambda host: asked.append(host) or False)
    with pytest.raises(UnknownHost, match="MASTER_ADDR=nowhere: this machine knows no host"):
        check_host("nowhere")
    assert asked == ["nowhere"] * 2
