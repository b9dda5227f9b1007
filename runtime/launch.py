"""This process's place in its launch: the one module that knows the launchers.

torchrun says it by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. `srun python
train.py` says it by variables of SLURM's own; `join_launch` then sets those five, before anything
reads them. Without either the process is alone. The script of a batch job is alone as well: it has
SLURM_NTASKS but is no step of the job. So is what starts in a shell that `srun --pty` opened.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping

FIRST_PORT, PORTS = 20_000, 12_000  # below those that systems give to outgoing connections
SECONDS_FOR_SCONTROL = 20
SECONDS_FOR_HOST = 60.0
PLACE = "RANK", "WORLD_SIZE", "LOCAL_RANK"  # of a process in its launch
MEETING = "MASTER_ADDR", "MASTER_PORT"  # where the processes find each other


def rank() -> int:
    """Return this process's number in its launch, from 0."""
    return number("RANK", 0)


def world_size() -> int:
    """Return the number of processes of this launch."""
    return number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Return the number of this process's GPU among those that it sees."""
    return number("LOCAL_RANK", 0)


def number(name: str, otherwise: int) -> int:
    """Return a number that the launcher gives; what is none, `check_launch` refuses."""
    join_launch()
    said = os.environ.get(name, "")
    return int(said) if said.isdecimal() else otherwise


def is_first_process() -> bool:
    """Return whether this is process 0, which writes and speaks for all."""
    return rank() == 0 or world_size() == 1


def restarted() -> bool:
    """Return whether a launcher starts the same command again, whose first start was ended.

    By torchrun's --max-restarts, or in a job that SLURM queued again.
    """
    counts = number("TORCHELASTIC_RESTART_COUNT", 0), number("SLURM_RESTART_COUNT", 0)
    return any(counts)


def check_launch() -> None:
    """Raise `ValueError` if the environment describes a part of a launch.

    As leftovers of another one do, in a shell: the others of it would be waited for, or a share of
    the work done and nobody would do the rest.
    """
    join_launch()
    given = {name: os.environ[name] for name in (*PLACE, *MEETING) if name in os.environ}
    alone = not set(given) & {"RANK", "LOCAL_RANK"} and given.get("WORLD_SIZE", "1") == "1"
    if alone:
        return
    missing = [name for name in (*PLACE, *MEETING) if not given.get(name)]
    numbers = all(said.isdecimal() for name, said in given.items() if name != "MASTER_ADDR")
    if missing or not numbers or rank() >= world_size():
        said = ", ".join(f"{name}={value}" for name, value in given.items())
        without = f" without {', '.join(missing)}" if missing else ""
        raise ValueError(
            f"the environment has {said}{without}, which is no whole launch: start with torchrun "
            f"or srun, or for one process alone: unset {' '.join(given)}"
        )
    check_host(given["MASTER_ADDR"])


def join_launch() -> None:
    """Describe a step of SLURM as torchrun does, in the environment; else change nothing.

    Variables that are set already are kept: MASTER_ADDR and MASTER_PORT are the user's to choose.
    """
    if "RANK" not in os.environ and is_slurm_task(os.environ):
        for name, value in describe_task(os.environ).items():
            os.environ.setdefault(name, value)


class UnknownHost(ValueError):
    """The network does not know the machine where the processes are to meet."""

    may_pass = True


def check_host(name: str) -> None:
    """Raise `UnknownHost` unless the network knows a machine, asked for a while.

    torch would ask for an hour.
    """
    deadline = time.monotonic() + SECONDS_FOR_HOST
    while not (known := is_known(name)) and time.monotonic() < deadline:
        time.sleep(1)
    if not known:
        raise UnknownHost(f"MASTER_ADDR={name}: this machine knows no host of that name")


def is_known(host: str) -> bool:
    """Return whether the network has an address for a name."""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def is_slurm_task(env: Mapping[str, str]) -> bool:
    """Return whether these variables are those of one of several tasks that srun started."""
    several = int(env.get("SLURM_STEP_NUM_TASKS") or 1) > 1
    return several and "SLURM_PROCID" in env and "SLURM_PTY_PORT" not in env


def describe_task(env: Mapping[str, str]) -> dict[str, str]:
    """Translate the variables of a task of SLURM to those of torchrun."""
    local, node = int(env.get("SLURM_LOCALID", 0)), int(env.get("SLURM_NODEID", 0))
    visible = [name for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    job, step = int(env.get("SLURM_JOB_ID", 0)), int(env.get("SLURM_STEP_ID", 0))
    step += 7 * int(env.get("SLURM_RESTART_COUNT") or 0)  # not the earlier run's port
    described = {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        # with one GPU bound to each task, every task sees its own as number 0
        "LOCAL_RANK": str(local % len(visible) if visible else local),
        "MASTER_PORT": str(FIRST_PORT + (31 * job + step) % PORTS),
        "OMP_NUM_THREADS": "1",  # as torchrun sets it
    }
    if "MASTER_ADDR" not in env:
        described["MASTER_ADDR"] = address_of(first_host(hosts))
    if "SLURM_STEP_TASKS_PER_NODE" in env:
        on_node = tasks_per_node(env["SLURM_STEP_TASKS_PER_NODE"])[node]
        described["LOCAL_WORLD_SIZE"] = str(on_node)
    return described


def first_host(nodes: str) -> str:
    """Return the first name of SLURM's list of nodes: of "rack[1-2]n[07-09,12],login" rack1n07."""
    for match in re.finditer(r"\[[^]]*\]|,", nodes):
        if match[0] == ",":
            nodes = nodes[: match.start()]
            break
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", nodes) or "127.0.0.1"


def tasks_per_node(counts: str) -> list[int]:
    """Return the number of tasks of each node: "8(x2),4" is [8, 8, 4]."""
    tasks = []
    for part in counts.split(","):
        count, _, times = part.rstrip(")").partition("(x")
        tasks += [int(count)] * int(times or 1)
    return tasks


def address_of(host: str) -> str:
    """Return `host` if the network knows it, else the address that SLURM has for that node."""
    if is_known(host) or not shutil.which("scontrol"):
        return host
    said = subprocess.run(
        ["scontrol", "--oneliner", "show", "node", host],
        capture_output=True,
        text=True,
        timeout=SECONDS_FOR_SCONTROL,
    ).stdout
    known = re.search(r"\bNodeAddr=(\S+)", said)
    return known[1] if known else host
