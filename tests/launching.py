"""Running the project's commands as real processes, and killing them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--model", "SiT-Ti/2", "--image-size", "8", "--vae", "none"]
# one thread for each process: as many as the machine has cores would only get in each other's way
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(script: str, *args, processes: int = 1) -> list[str]:
    """`python script args`, or torchrun with that many processes."""
    launcher = [sys.executable]
    if processes > 1:
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        launcher += run
    program = [script] if script == "-m" else [str(ROOT / script)]  # -m: a module, named next
    return [*launcher, *program, *map(str, args)]


def run(script: str, *args, processes: int = 1) -> subprocess.CompletedProcess:
    """Run to the end; the caller looks at `returncode`, `stdout` and `stderr`."""
    return subprocess.run(
        command(script, *args, processes=processes),
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def check(script: str, *args, processes: int = 1) -> str:
    """Run to the end, which must be a good one; returns what was printed."""
    done = run(script, *args, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def kill_when(condition, script: str, *args, processes: int = 1) -> None:
    """Start, wait until condition() holds, then SIGKILL every process at once."""
    process = subprocess.Popen(
        command(script, *args, processes=processes),
        env=ENVIRONMENT,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.time() < deadline, "nothing to kill after two minutes"
        time.sleep(0.005)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)
    process.wait()


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
