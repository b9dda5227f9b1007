"""Running the project's commands as real processes, and killing them.

They are forked from a process that has imported torch and the project (forking/), which saves
three to five seconds of a processor each; `real=True` starts an interpreter from nothing, as a user
does, and every command has a test that does, of those that `make test-slow` runs where another
proves the same of forked ones.
"""

import contextlib
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from forking import ENVIRONMENT, family, forked_python

from training.config import OptimConfig, TrainConfig
from training.parallel import can_shard
from training.tracking import read_log

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--model", "SiT-Ti/2", "--image-size", "8", "--vae", "none"]
TINY_DIGITS = TrainConfig(
    model="SiT-Ti/2",
    dataset_name="digits",
    image_size=8,
    num_classes=10,
    vae="none",
    global_batch_size=8,
    max_steps=4,
    log_every=1,
    num_workers=0,
    sample_every=0,
    optim=OptimConfig(lr=1e-2),
)
SHARDS = can_shard(torch.device("cpu"))
needs_shards = pytest.mark.skipif(not SHARDS, reason="this version of torch shards on GPUs only")
LOGGED = ("loss", "velocity_loss", "sync_loss", "grad_norm")


def command(script: str | Path, *args, processes: int = 1, real: bool = False) -> list[str]:
    """`python script args`, or torchrun with that many processes."""
    launcher = [sys.executable if real else forked_python()]
    if processes > 1:
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        launcher += run
    program = [script] if script == "-m" else [str(ROOT / script)]  # -m: a module, named next
    return [*launcher, *program, *map(str, args)]


def run(
    script: str | Path, *args, processes: int = 1, real: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run to the end; the caller looks at `returncode`, `stdout` and `stderr`."""
    python = {} if real else {"PYTHON_EXEC": forked_python()}  # what torchrun starts
    return subprocess.run(
        command(script, *args, processes=processes, real=real),
        env=ENVIRONMENT | python,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )


def check(script: str | Path, *args, processes: int = 1, real: bool = False) -> str:
    """Run to the end, which must be a good one; returns what was printed."""
    done = run(script, *args, processes=processes, real=real)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


SEVERAL_RUNS = """
import pickle, sys
sys.path[:0] = sys.argv[1:3]
import models.compiling
import train
from accelerate.state import AcceleratorState
models.compiling.BACKEND = "aot_eager"  # graphs as they are, without minutes of a C++ compiler
for config in pickle.load(open(sys.argv[3], "rb")):
    AcceleratorState._reset_state()  # it keeps a process's first precision
    training = train.Training(config)
    # the next run goes on in the same group
    training.accelerator.state.destroy_process_group = lambda: None
    assert training.run() == 0
"""


def check_runs(folder: Path, configs: list[TrainConfig], processes: int) -> None:
    """Make these runs one after the other, in one launch."""
    (folder / "configs").write_bytes(pickle.dumps(configs))
    (folder / "runs.py").write_text(SEVERAL_RUNS)
    check(folder / "runs.py", ROOT, ROOT / "tests", folder / "configs", processes=processes)


def kill_when(condition, script: str, *args, processes: int = 1) -> None:
    """Start, wait until condition() holds, then SIGKILL every process at once."""
    process = subprocess.Popen(
        command(script, *args, processes=processes),
        env=ENVIRONMENT | {"PYTHON_EXEC": forked_python()},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(condition, process)
    members = family(process.pid)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended with the one before
            member.send_signal(signal.SIGKILL)
    psutil.wait_procs(members, timeout=30)
    process.wait()


def wait_until(condition, process: subprocess.Popen) -> None:
    """`process` makes condition() true before it ends, within two minutes."""
    deadline = time.time() + 120
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.time() < deadline, "nothing happened for two minutes"
        time.sleep(0.005)


def logged_rows(folder: Path) -> list[list[float]]:
    """Return what a run logged at each step, of `LOGGED`."""
    rows = read_log(folder / "metrics.jsonl")
    return [[row[name] for name in LOGGED] for row in rows if "loss" in row]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def save_tiny_vae(folder: Path | str, seed: int = 0, **settings) -> str:
    """An autoencoder of SD's kind, random and small: 4 latent channels, factor 2."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    sizes = dict(block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4)
    blocks = dict(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2
    )
    AutoencoderKL(**sizes, **blocks, **settings).save_pretrained(folder)
    return str(folder)
