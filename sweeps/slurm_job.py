"""Run one command of a cell as a job of scripts/slurm.sbatch, on any number of nodes, and wait.

    python -m sweeps.slurm_job --nodes=2 --gpus-per-node=8 -- train.py --model SiT-XL/2 ...

LAYERSYNC_OUTCOME must name the command's outcome file. The job's number is kept beside it, in
job.json: started again for the same command while the job lives, this waits for that job. SIGTERM
ends the waiting with exit code 75, not the job. The exit code is that of the command.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runtime.files import write_json
from runtime.outcome import VARIABLE, read_outcome
from runtime.stopping import EXIT_PREEMPTED
from sweeps.command_launch import ROOT, Launch

POLL_SECONDS = 5.0
SECONDS_TO_SETTLE = 15.0  # a job that is queued again passes through a state of the end
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE",
         "BOOT_FAIL", "GONE")  # fmt: skip
PREFIX = "slurm_job"


@dataclass(frozen=True)
class JobLaunch(Launch):
    """A way to start the commands of a cell: each as a job of its own, on several nodes."""

    options: tuple[str, ...] = ()
    """of sbatch: "--nodes=2" """

    when_stopped: ClassVar = "the watching ends, the jobs go on (scancel stops them)"

    def argv(self, words: tuple[str, ...] | list[str]) -> list[str]:
        return [sys.executable, "-m", "sweeps.slurm_job", *self.options, "--", *words]

    def shown(self, words: tuple[str, ...] | list[str], start: Sequence[str] = ()) -> str:
        return super().shown(words, start or ["sbatch", *self.options, "scripts/slurm.sbatch"])


def job_state(number: int) -> tuple[str | None, str]:
    """Return SLURM's words for the state of a job, and for why it waits.

    The state is "GONE" when SLURM has forgotten it, None if it cannot tell now.
    """
    words = ["scontrol", "--oneliner", "show", "job", str(number)]
    said = subprocess.run(words, capture_output=True, text=True)
    if said.returncode:
        return ("GONE" if "Invalid job id" in said.stderr else None), ""
    state = re.search(r"\bJobState=(\w+)", said.stdout)
    reason = re.search(r"\bReason=(\w+)", said.stdout)
    return state[1] if state else None, reason[1] if reason else ""


def remembered(memory: Path, words: list[str]) -> int | None:
    """Return the number of the job that was submitted for these words and has not ended."""
    try:
        record = json.loads(memory.read_text())
        number = int(record["job"]) if record["words"] == words else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if number is None or job_state(number)[0] in ENDED else number


def submit(options: list[str], words: list[str], folder: Path) -> int:
    """Submit a command; return the number of the job. `ValueError` with what sbatch says."""
    log = f"--output={folder.resolve()}/slurm-%j.log"
    command = ["sbatch", "--parsable", log, f"--job-name={folder.name}", *options]
    said = subprocess.run(
        [*command, "scripts/slurm.sbatch", *words], cwd=ROOT, capture_output=True, text=True
    )
    if said.returncode:
        raise ValueError((said.stderr.strip().splitlines() or ["sbatch failed"])[-1])
    return int(said.stdout.strip().split(";")[0])


def wait_for_end(number: int, told: Path) -> str:
    """Wait until the job has ended for good, and print each change; return its state."""
    ended_at, before = None, ""
    while True:
        state, reason = job_state(number)
        why = "" if reason in ("", "None") else f" ({reason})"
        if state and state + why != before:
            before = state + why
            print(f"{PREFIX}: job {number} is {before}", flush=True)
        if state not in ENDED:
            ended_at = None
        elif read_outcome(told):
            return state
        else:
            ended_at = ended_at or time.monotonic()
            if time.monotonic() - ended_at > SECONDS_TO_SETTLE:
                return state
        time.sleep(POLL_SECONDS)


def leave(*_) -> None:
    print(f"{PREFIX}: the waiting ended; the job goes on", flush=True)
    os._exit(EXIT_PREEMPTED)


def main(args: list[str]) -> int:
    signal.signal(signal.SIGTERM, leave)
    options, words = args[: args.index("--")], args[args.index("--") + 1 :]
    told = Path(os.environ[VARIABLE]).resolve()
    os.environ[VARIABLE] = str(told)  # sbatch hands the environment on to the job
    memory = told.with_name("job.json")
    number = remembered(memory, words)
    if number is None:
        try:
            number = submit(options, words, told.parent)
        except (ValueError, OSError) as error:
            print(f"{PREFIX}: error: {error}", flush=True)
            return 1
        write_json(memory, {"job": number, "words": words})
    log = told.with_name(f"slurm-{number}.log")
    print(f"{PREFIX}: job {number}, its log is {log}", flush=True)
    state = wait_for_end(number, told)
    outcome = read_outcome(told)
    if outcome:
        return outcome.exit_code
    if state != "COMPLETED":
        print(f"{PREFIX}: error: job {number} ended as {state}; see {log}", flush=True)
    return 0 if state == "COMPLETED" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
