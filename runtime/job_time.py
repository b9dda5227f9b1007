"""The end of a SLURM job's time."""

import os
import shutil
import subprocess
from datetime import datetime

SECONDS_FOR_SQUEUE = 20


def job_end(ask: bool = False) -> float | None:
    """Return when the job that this process is part of will be ended; None if nothing says so.

    Args:
        ask: prefer the scheduler's word to SLURM_JOB_END_TIME, which is that of the job's start.

    Seconds since 1970, as `time.time()`. Newer versions of SLURM set the variable.
    """
    job, told = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_END_TIME", "")
    if not job:
        return None
    at_start = float(told) if told.isdigit() else None
    if at_start and not ask:
        return at_start
    return asked(job) or at_start


def asked(job: str) -> float | None:
    """Return what the scheduler says about a job; None if it does not answer."""
    if not shutil.which("squeue"):
        return None
    words = ["squeue", "--noheader", f"--job={job}", "--format=%e"]
    environment = os.environ | {"SLURM_TIME_FORMAT": "standard"}
    try:
        said = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=SECONDS_FOR_SQUEUE
        ).stdout
        return datetime.fromisoformat(said.strip()).timestamp()
    except (subprocess.SubprocessError, ValueError):  # "N/A" or "UNLIMITED": no limit
        return None
